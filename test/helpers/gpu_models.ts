// What tests of whole models do on the GPU and, for comparison, on the CPU.

import type { ModelConfigInput } from "../../lib/nn/config.ts";
import type { XLSTM } from "../../lib/nn/model.ts";
import { type Device, noGrad, onDevice, scope, tensor } from "../../lib/tensor/index.ts";
import { type ConfigName, configs, type Ids, scrambled } from "./models.ts";

export type Precision = "f64" | "f32" | "bf16";

/** A tiny model with random parameters that lie on a device. */
export function modelOn(device: Device, name: ConfigName, dtype: Precision): XLSTM {
  const config = { ...(configs[name] as ModelConfigInput), dtype };
  return onDevice(device, () => scrambled(config));
}

/**
 * Halves what is random and gives the gates biases like those models start with. The gradients of
 * a scrambled model jump: rounding its weights alone to bf16 moves some of them by half their size.
 */
export function calm(model: XLSTM): void {
  const biases = [
    ["f_gate.bias", 4],
    ["i_gate.bias", -10],
  ] as const;
  onDevice(model.device, () =>
    scope(() => {
      for (const parameter of model.parameters().values()) {
        const isScale = parameter.name.endsWith("scale") && !model.config.normResidualScale;
        const center = isScale ? 1 : 0;
        const bias = biases.find(([ending]) => parameter.name.endsWith(ending))?.[1] ?? 0;
        const data = Float64Array.from(parameter.dataSync(), (x) => center + (x - center) / 2);
        const values = tensor(
          data.map((x) => bias + x),
          { shape: parameter.shape },
        );
        noGrad(() => parameter.write_(values));
      }
    }),
  );
}

/** The loss of a batch with a mask, and the gradient of every parameter by name. */
export interface Slopes {
  readonly loss: number;
  readonly gradients: ReadonlyMap<string, Float64Array>;
}

export function slopes(model: XLSTM, ids: Ids, next: Ids): Slopes {
  return onDevice(model.device, () =>
    scope(() => {
      const bits = Uint8Array.from({ length: ids.data.length }, (_, i) => Number(i % 5 !== 1));
      const mask = tensor(bits, { shape: ids.shape });
      const dropout = { seed: 5, step: 2, sample: 0 };
      const loss = model.loss({ tokens: ids, targets: next, mask }, { dropout });
      const grads = loss.backward();
      const gradients = [...model.parameters()].map(([name, parameter]) => {
        return [name, Float64Array.from(grads.of(parameter).dataSync())] as const;
      });
      return { loss: loss.item(), gradients: new Map(gradients) };
    }),
  );
}
