// Where tensors live. Operations compute where their inputs lie; tensors made from nothing go to
// the default device.
//
//   useDevice("cuda");
//   const x = randn([2, 3]);          // on the GPU
//   const y = x.to("cpu");

import { hasGpu, openGpu } from "../native/gpu.ts";
import { check, native, scratch } from "../native/library.ts";
import { DeviceCode } from "../native/symbols.ts";
import type { Device } from "./dtype.ts";
import { needsGrad, recorded } from "./tape.ts";
import { result, type Tensor } from "./tensor.ts";

let current: Device = "cpu";

/** The device of tensors that are made from nothing. */
export function currentDevice(): Device {
  return current;
}

/**
 * Makes a device the default. "auto" takes the GPU when there is one that can be used. Returns the
 * device; GpuError says why "cuda" cannot be used.
 */
export function useDevice(device: Device | "auto"): Device {
  const chosen = device === "auto" ? (hasGpu() ? "cuda" : "cpu") : device;
  if (chosen === "cuda") openGpu();
  check(native().xl_use_device(DeviceCode[chosen]), "useDevice");
  current = chosen;
  return chosen;
}

/** Runs `body` with another default device. */
export function onDevice<T>(device: Device, body: () => T): T {
  if (device === current) return body();
  const before = current;
  useDevice(device);
  try {
    return body();
  } finally {
    useDevice(before);
  }
}

/** The tensor on a device: itself, sharing memory, where it is there already. Gradients flow. */
export function toDevice(x: Tensor, device: Device): Tensor {
  if (device === "cuda") openGpu();
  const from = x.device;
  const y = result(native().xl_to_device(x.handle, DeviceCode[device]), "to");
  return needsGrad(x) ? recorded("to", [x], y, (dy) => [toDevice(dy, from)]) : y;
}

/** Waits until the GPU has done everything it was asked for. */
export function synchronize(): void {
  check(native().xl_synchronize(), "synchronize");
}

/** Milliseconds that the work `body` asks of the GPU takes there. Waits. */
export function timeOnDevice(body: () => void): number {
  check(native().xl_mark(0), "time");
  body();
  check(native().xl_mark(1), "time");
  check(native().xl_elapsed(), "time");
  return scratch().numbers[0]!;
}
