// The recurrent cells on the GPU: whole sequences and single steps. FLOPs and bytes are those of a
// fused pass with chunk 64, for every implementation: rates compare work done, not work invented.

import {
  mlstm,
  mlstmState,
  mlstmStep,
  randn,
  requireGrad,
  slstm,
  slstmStep,
  type Tensor,
  zeros,
} from "../tensor/index.ts";
import { bf16, type Case } from "./gpu_measure.ts";

interface MlstmShape {
  readonly B: number;
  readonly S: number;
  readonly H: number;
  readonly qk: number;
  readonly v: number;
}

interface SlstmShape {
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly D: number;
}

type Gate = "exp" | "sigmoid";

const sequences: readonly MlstmShape[] = [
  { B: 8, S: 8192, H: 8, qk: 256, v: 512 },
  { B: 8, S: 8192, H: 16, qk: 128, v: 256 },
  { B: 8, S: 8192, H: 32, qk: 64, v: 128 },
];
const recurrences: readonly SlstmShape[] = [
  { B: 16, T: 1024, H: 12, D: 64 },
  { B: 16, T: 1024, H: 6, D: 128 },
  { B: 16, T: 1024, H: 4, D: 192 },
  { B: 16, T: 1024, H: 4, D: 256 },
];
/** A second-level cache holds 50 MB: steps go round more state than that. */
const rotatedBytes = 256e6;

export function cellCases(quick: boolean): Case[] {
  const gates: readonly Gate[] = ["exp", "sigmoid"];
  if (quick) {
    const small = { B: 1, S: 96, H: 2, qk: 16, v: 32 };
    const narrow = { B: 2, T: 8, H: 2, D: 16 };
    return [
      ...gates.flatMap((gate) => mlstmCases(small, gate)),
      ...slstmCases(narrow),
      mlstmStepCase(2, small, 2),
      slstmStepCase(2, narrow),
    ];
  }
  return [
    ...sequences.flatMap((shape) => gates.flatMap((gate) => mlstmCases(shape, gate))),
    ...recurrences.flatMap(slstmCases),
    ...[1, 8, 64].flatMap((rows) => sequences.map((shape) => mlstmStepCase(rows, shape))),
    ...[1, 8, 64].flatMap((rows) => recurrences.map((shape) => slstmStepCase(rows, shape))),
  ];
}

function mlstmCases(shape: MlstmShape, gate: Gate): Case[] {
  const { B, S, H, qk, v } = shape;
  const each = B * S * H;
  const flops = each * (4 * qk * v + 128 * (qk + v));
  const bytes = each * (4 * (qk + v) + 8);
  const name = `mlstm ${gate} ${H}x${qk}/${v}, ${B} x ${S}`;
  const options = { inputGate: gate, gradMode: "frozenDenominator" } as const;
  return [
    {
      name: `${name} forward`,
      bytes,
      flops,
      make: () => {
        const inputs = mlstmInputs([B, S, H], shape);
        return () => mlstm(inputs, options).h;
      },
    },
    {
      name: `${name} forward + backward`,
      bytes: 4 * bytes + each * 2 * qk,
      flops: 4 * flops,
      make: () => {
        const inputs = mlstmInputs([B, S, H], shape);
        const leaves = Object.values(inputs).map((input) => requireGrad(input));
        const dh = bf16([B, S, H, v]);
        return () => {
          const gradients = mlstm(inputs, options).h.backward(dh);
          return leaves.map((input) => gradients.of(input));
        };
      },
    },
  ];
}

/** Gates as in training: the input gate around 0, the forget gate around 3. */
function mlstmInputs(dims: readonly number[], { qk, v }: MlstmShape) {
  return {
    q: bf16([...dims, qk]),
    k: bf16([...dims, qk]),
    v: bf16([...dims, v]),
    i: randn(dims),
    f: randn(dims, { mean: 3 }),
  };
}

function slstmCases({ B, T, H, D }: SlstmShape): Case[] {
  const units = B * T * H * D;
  const name = `slstm ${H}x${D}, ${B} x ${T}`;
  const make = () => slstmInputs([B, T, 4, H, D], H, D);
  return [
    {
      name: `${name} forward`,
      bytes: units * 10,
      flops: units * 8 * D,
      make: () => {
        const { wx, r, b } = make();
        return () => slstm(wx, r, b).y;
      },
    },
    {
      name: `${name} forward + backward`,
      bytes: units * 28,
      flops: units * 24 * D,
      make: () => {
        const { wx, r, b } = make();
        const leaves = [wx, r, b].map((input) => requireGrad(input));
        const dy = bf16([B, T, H, D]);
        return () => {
          const gradients = slstm(wx, r, b).y.backward(dy);
          return leaves.map((input) => gradients.of(input));
        };
      },
    },
  ];
}

function slstmInputs(wx: readonly number[], H: number, D: number) {
  return {
    wx: bf16(wx),
    r: randn([4, H, D, D], { std: 0.5 / Math.sqrt(D) }),
    b: randn([4, H, D]),
  };
}

/** One token for each of `rows` sequences; the state is read and written once. */
function mlstmStepCase(rows: number, shape: MlstmShape, most = 64): Case {
  const { H, qk, v } = shape;
  const stateBytes = rows * H * (qk * v + qk + 1) * 4;
  const sets = Math.min(most, Math.ceil(rotatedBytes / stateBytes));
  return {
    name: `mlstm step ${H}x${qk}/${v}, ${rows} rows`,
    bytes: 2 * stateBytes + rows * H * (4 * (qk + v) + 8),
    flops: rows * H * (6 * qk * v),
    make: () => {
      const inputs = mlstmInputs([rows, H], shape);
      const states = Array.from({ length: sets }, () =>
        mlstmState({ batch: rows, heads: H, qk, v }),
      );
      return (call) => mlstmStep(inputs, states[call % sets]!);
    },
  };
}

/** The recurrent weights are read once for all rows. */
function slstmStepCase(rows: number, { H, D }: SlstmShape): Case {
  const units = rows * H * D;
  return {
    name: `slstm step ${H}x${D}, ${rows} rows`,
    bytes: 4 * 4 * H * D * D + units * (8 + 2 + 2 * 4 * 4),
    flops: units * 8 * D,
    make: () => {
      const { wx, r, b } = slstmInputs([rows, 4, H, D], H, D);
      const state: Tensor = zeros([rows, 4, H, D]);
      return () => slstmStep(wx, r, b, state);
    },
  };
}
