// Reference cases of whole models and of training runs.

import { dirname, join } from "node:path";
import { readFileSync } from "node:fs";
import { openSafetensors, type TensorFile } from "../checkpoint/safetensors.ts";
import type { ModelConfigInput } from "../nn/config.ts";
import { resolveConfig } from "../nn/config.ts";
import {
  configFromHuggingFace,
  configFromJax,
  configFromLegacy,
  configFromXlstmLarge,
} from "../nn/config_import.ts";
import { exportTensors, importTensors, detectFormat, type NameMap, nameMap } from "../nn/names.ts";
import { tensorOps } from "../nn/names_tensor.ts";
import { XLSTM } from "../nn/model.ts";
import { optimizer } from "../optim/optimizer.ts";
import { type DType, onDevice, scope, type Tensor } from "../tensor/index.ts";
import { metadataOf } from "./cells.ts";
import { Comparison, type Precision, type Row } from "./report.ts";
import { barsOfRounding } from "./rounding.ts";

type Fields = Record<string, unknown>;

function modelBars(precision: Precision) {
  if (precision === "f64") return { value: 1e-5, gradient: 1e-4 };
  if (precision === "f32") return { value: 2e-5, gradient: 2e-4 };
  return { value: 2e-2, gradient: 4e-2 };
}

/** The model of a case in the wanted dtype, with exact gradients. */
function build(input: ModelConfigInput, precision: Precision): XLSTM {
  const gradMode = { gradMode: "exact" as const };
  const hasMlstm = input.slstmAt !== "all" && input.block !== "slstm";
  return new XLSTM(
    resolveConfig({
      ...input,
      dtype: precision,
      lmHeadDtype: precision,
      ...(hasMlstm ? { mlstm: { ...input.mlstm, ...gradMode } } : {}),
    }),
  );
}

/** Tensors of a file under a prefix, by the name after it. */
function withPrefix(file: TensorFile, prefix: string, dtype?: DType): Map<string, Tensor> {
  const names = file.names.filter((name) => name.startsWith(prefix));
  return new Map(names.map((name) => [name.slice(prefix.length), file.load(name, dtype)]));
}

function mapOf(model: XLSTM, tensors: ReadonlyMap<string, Tensor>): NameMap {
  const shapes = new Map([...tensors].map(([name, tensor]) => [name, tensor.shape] as const));
  const { format, options } = detectFormat(shapes);
  return nameMap(model.config, format, options);
}

/** Our gradients under the names and in the layout of the file. */
function foreign(map: NameMap, model: XLSTM, grads: Iterable<[Tensor, Tensor]>) {
  const ours = new Map([...grads].map(([leaf, grad]) => [leaf, grad] as const));
  const named = new Map(
    [...model.parameters()].flatMap(([name, parameter]) => {
      const grad = ours.get(parameter);
      return grad ? [[name, grad] as const] : [];
    }),
  );
  return exportTensors(map, named, tensorOps);
}

function values(tensors: ReadonlyMap<string, Tensor>): Map<string, ArrayLike<number>> {
  return new Map([...tensors].map(([name, tensor]) => [name, tensor.dataSync()]));
}

/** Weights, logits, loss and gradients: ops `xlstm_large` and `xlstm_v1_lm`. */
function verifyLanguageModel(
  file: TensorFile,
  config: ModelConfigInput,
  precision: Precision,
): Row[] {
  const model = build(config, precision);
  const weights = withPrefix(file, "w.", precision === "f64" ? "f64" : "f32");
  const map = mapOf(model, weights);
  model.load(importTensors(map, weights, tensorOps));
  const bars = modelBars(precision);
  const comparison = new Comparison();
  const { logits } = model.forward(file.load("tokens"));
  comparison.add("logits", logits, file.load("logits").dataSync(), bars.value);
  const batch = { tokens: file.load("tokens"), targets: file.load("targets") };
  const loss = model.loss(batch, { train: false });
  comparison.add("loss", loss, file.load("loss").dataSync(), bars.value);
  const plain = XLSTM.lossOf(logits, batch.targets);
  comparison.add("loss of logits", plain, file.load("loss").dataSync(), bars.value);
  const grads = foreign(map, model, loss.backward());
  const want = values(withPrefix(file, "g."));
  const exactly = (round: Rounding) => onDevice("cpu", () => exactGradients(file, config, round));
  const known = precision === "bf16" ? barsOfRounding(bars.gradient, exactly) : bars.gradient;
  comparison.addGradients("g.", grads, want, known);
  model.dispose();
  return comparison.rows;
}

type Rounding = (name: string, weight: Tensor) => Tensor;

/** In f64, of the file's weights as `round` leaves them. */
function exactGradients(file: TensorFile, config: ModelConfigInput, round: Rounding) {
  const model = build(config, "f64");
  const stored = withPrefix(file, "w.", "f64");
  const weights = new Map([...stored].map(([name, x]) => [name, round(name, x)] as const));
  const map = mapOf(model, weights);
  model.load(importTensors(map, weights, tensorOps));
  const batch = { tokens: file.load("tokens"), targets: file.load("targets") };
  const loss = model.loss(batch, { train: false });
  const gradients = values(foreign(map, model, loss.backward()));
  model.dispose();
  return gradients;
}

export function verifyLarge(file: TensorFile, precision: Precision): Row[] {
  const { config } = configFromXlstmLarge(metadataOf(file).config as Fields);
  return verifyLanguageModel(file, config, precision);
}

export function verifyLegacy(file: TensorFile, precision: Precision): Row[] {
  const { op: _, ...fields } = metadataOf(file);
  return verifyLanguageModel(file, configFromLegacy(fields).config, precision);
}

/** A checkpoint folder of the transformers library: logits and greedy continuation. */
export function verifyHuggingFace(file: TensorFile, precision: Precision): Row[] {
  const folder = join(dirname(file.path), metadataOf(file).dir as string);
  const json = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as Fields;
  const model = build(configFromHuggingFace(json).config, precision);
  using weights = openSafetensors(join(folder, "model.safetensors"));
  const stored = withPrefix(weights, "", precision === "f64" ? "f64" : "f32");
  model.load(importTensors(mapOf(model, stored), stored, tensorOps));
  const comparison = new Comparison();
  const tokens = file.load("tokens");
  const { logits } = model.forward(tokens);
  comparison.add("logits", logits, file.load("logits").dataSync(), modelBars(precision).value);
  if (file.has("greedy") && precision !== "bf16") {
    const want = file.load("greedy");
    comparison.addEqual("greedy", greedy(model, tokens, want.shape[1]!), want.dataSync());
  }
  model.dispose();
  return comparison.rows;
}

/** Prompt and most likely continuation of each row, step by step with carried state. */
function greedy(model: XLSTM, prompt: Tensor, length: number): number[] {
  const [rows, given] = prompt.shape as [number, number];
  const sequences = Array.from({ length: rows }, (_, row) =>
    Array.from(prompt.slice(0, row, row + 1).dataSync()),
  );
  let { logits, state } = model.forward(prompt, { returnState: true });
  for (let at = given; at < length; at++) {
    const last = logits.select(1, logits.shape[1]! - 1);
    const next = last.argmax();
    next.dataSync().forEach((token, row) => sequences[row]!.push(token));
    ({ logits, state } = model.forward(next.reshape([rows, 1]), { state, returnState: true }));
  }
  return sequences.flat();
}

/** A training run of the JAX system, loss by loss. */
export function verifyTrain(file: TensorFile, precision: Precision): Row[] {
  const metadata = metadataOf(file);
  const model = build(configFromJax(metadata.model as Fields).config, precision);
  const initial = withPrefix(file, "p0.", precision === "f64" ? "f64" : "f32");
  const map = mapOf(model, initial);
  model.load(importTensors(map, initial, tensorOps));
  const made = optimizer(model.parameters(), jaxOptimizer(metadata.optimizer as Fields));
  const lossBar = precision === "bf16" ? 2e-2 : 1e-3;
  const wanted = { loss: file.load("loss").dataSync(), norm: file.load("grad_norm").dataSync() };
  const [inputs, targets, borders] = ["inputs", "targets", "borders"].map((n) => file.load(n));
  const comparison = new Comparison();
  for (let step = 0; step < wanted.loss.length; step++) {
    scope(() => {
      const tokens = inputs!.select(0, step).clone();
      const options = metadata.uses_borders ? { borders: borders!.select(0, step).clone() } : {};
      const batch = { tokens, targets: targets!.select(0, step).clone(), ...options };
      if (step === 0 && precision !== "bf16") {
        const { logits } = model.forward(tokens, options);
        comparison.add("logits0", logits, file.load("logits0").dataSync(), 2e-5);
      }
      const loss = model.loss(batch);
      const grads = loss.backward();
      if (step === 0 && precision !== "bf16") {
        comparison.addGradients(
          "g0.",
          foreign(map, model, grads),
          values(withPrefix(file, "g0.")),
          2e-4,
        );
      }
      const { norm } = made.step(grads);
      comparison.add(`loss[${step}]`, loss, [wanted.loss[step]!], lossBar);
      if (precision !== "bf16") {
        comparison.add(`grad_norm[${step}]`, [norm], [wanted.norm[step]!], 5e-3);
      }
    });
  }
  if (precision !== "bf16") {
    const last = exportTensors(map, model.parameters(), tensorOps);
    for (const [name, want] of withPrefix(file, "p1.")) {
      comparison.add(`p1.${name}`, last.get(name)!, want.dataSync(), 2e-3);
    }
  }
  made.dispose();
  model.dispose();
  return comparison.rows;
}

/** The optimiser options of a JAX run in our words. */
function jaxOptimizer(fields: Fields) {
  const lr = fields.scheduler as Fields;
  const names = {
    constant: "constant",
    linear: "linear",
    cosine_decay: "cosineDecay",
    exponential_decay: "exponentialDecay",
  } as const;
  const kernels = fields.weight_decay_include as string[] | null;
  const excluded = fields.weight_decay_exclude as string[] | null;
  // JAX calls dense, head-wise and convolution weights "kernel"; ours end in ".weight".
  const ours = (list: string[]) => list.map((p) => p.replace(/\.\*kernel/, "\\.weight$"));
  return {
    name: fields.name as "adamw",
    lr: {
      name: names[lr.name as keyof typeof names],
      lr: lr.lr as number,
      decaySteps: lr.decay_steps as number,
      endLr: lr.end_lr as number | null,
      endLrFactor: lr.end_lr_factor as number | null,
      warmupSteps: lr.warmup_steps as number,
      cooldownSteps: lr.cooldown_steps as number,
      cooldownLr: lr.cooldown_lr as number,
    },
    beta1: fields.beta1 as number,
    beta2: fields.beta2 as number,
    beta3: fields.beta3 as number,
    alpha: fields.alpha as number,
    eps: fields.eps as number,
    weightDecay: fields.weight_decay as number,
    decayInclude: kernels && ours(kernels),
    decayExclude: excluded && ours(excluded),
    gradClipNorm: fields.grad_clip_norm as number | null,
    gradClipValue: fields.grad_clip_value as number | null,
    nesterov: fields.nesterov as boolean,
  };
}
