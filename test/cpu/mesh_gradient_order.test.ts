// Sums of gradients over ranks begin before the gradients of weights: a GPU makes those meanwhile.

import { expect, test } from "bun:test";
import { Group } from "../../lib/mesh/group.ts";
import { gradientOrder, type Use } from "../helpers/gradient_order.ts";

const group = Group.fake("tp", [0, 1], 1);
const alone = Group.local();

/** The other rank adds nothing, so that what is left is this rank's gradient. */
function expectSum(gradient: number[], use: Use): void {
  expect(gradient).toEqual(gradientOrder(alone, "gather", "f32", use).gradient);
}

test.each(["gather", "enter"] as const)("%s: the sum begins first", (kind) => {
  const { order, gradient } = gradientOrder(group, kind, "f32");
  // On a CPU a sum is done when it has begun.
  expect(order).toEqual(["sum begins", "weights", "weights"]);
  expectSum(gradient, "once");
});

test("a gradient to which two operations add is summed when both have", () => {
  const { order, gradient } = gradientOrder(group, "gather", "f32", "twice");
  const weights = ["weights", "weights"];
  // What has begun early is given up.
  expect(order).toEqual(["sum begins", ...weights, ...weights, "sum begins"]);
  expectSum(gradient, "twice");
});
