// Single operations of a 7B-wide model on the GPU. Bytes are those an ideal kernel moves: every
// input read once, every output written once, statistics and parameters of a row's width left out.

import { native } from "../native/library.ts";
import { adamw, type Optimizer } from "../optim/optimizer.ts";
import {
  add,
  causalConv,
  crossEntropy,
  embedding,
  gatedActivation,
  Gradients,
  headNormGate,
  keep,
  linear,
  linearCrossEntropy,
  ones,
  randn,
  requireGrad,
  rmsNorm,
  tanh,
  type Tensor,
  tensor,
} from "../tensor/index.ts";
import { results } from "../tensor/tensor.ts";
import { bf16, type Case } from "./gpu_measure.ts";

/** Tokens, width, heads, hidden width, vocabulary, tokens whose logits exist at once. */
export interface Sizes {
  readonly tokens: number;
  readonly width: number;
  readonly heads: number;
  readonly hidden: number;
  readonly vocabulary: number;
  readonly scored: number;
}

export const fullSizes: Sizes = {
  tokens: 65_536,
  width: 4096,
  heads: 8,
  hidden: 10_944,
  vocabulary: 50_304,
  scored: 8192,
};
export const quickSizes: Sizes = {
  tokens: 48,
  width: 64,
  heads: 4,
  hidden: 96,
  vocabulary: 128,
  scored: 16,
};

export function operationCases(sizes: Sizes): Case[] {
  return [
    ...elementwiseCases(sizes),
    ...normCases(sizes),
    ...feedForwardCases(sizes),
    ...lossCases(sizes),
    ...embeddingCases(sizes),
    ...convCases(sizes),
    ...optimizerCases(sizes),
  ];
}

/** Runs the backward pass of the operation that made y, as often as it is called. */
function backwardOf(y: Tensor, dy: Tensor): () => Tensor[] {
  const { node, index } = y.edge!;
  const given: (Tensor | undefined)[] = Array.from({ length: node.outputs });
  given[index] = dy;
  const { backward } = node;
  return () => backward!(given).filter((grad) => grad !== null && grad !== undefined);
}

const leaf = (shape: readonly number[]) => requireGrad(bf16(shape));

/** bf16 arrays of `count` elements, `arrays` of them read or written. */
const traffic = (arrays: number, count: number) => 2 * arrays * count;

function elementwiseCases({ tokens, width }: Sizes): Case[] {
  const shape = [tokens, width];
  const count = tokens * width;
  return [
    {
      name: `unary tanh ${shape.join("x")}`,
      bytes: traffic(2, count),
      flops: 0,
      make: () => {
        const x = bf16(shape);
        return () => tanh(x);
      },
    },
    {
      name: `binary add ${shape.join("x")}`,
      bytes: traffic(3, count),
      flops: 0,
      make: () => {
        const [a, b] = [bf16(shape), bf16(shape)];
        return () => add(a, b);
      },
    },
  ];
}

function normCases(sizes: Sizes): Case[] {
  const { tokens, width, heads } = sizes;
  const shape = [tokens, width];
  const count = tokens * width;
  return [
    {
      name: `residual + RMS norm forward ${shape.join("x")}`,
      bytes: traffic(4, count),
      flops: 0,
      make: () => {
        const [x, residual, scale] = [bf16(shape), bf16(shape), ones([width])];
        return () => {
          const [a, b, c] = [x.handle, residual.handle, scale.handle];
          const [y, , rstd, total] = results(native().xl_norm(a, b, c, 0, 1, 0, 1e-6, 0), "norm");
          return [y!, rstd!, total!];
        };
      },
    },
    {
      name: `RMS norm backward ${shape.join("x")}`,
      bytes: traffic(3, count),
      flops: 0,
      make: () => backwardOf(rmsNorm(leaf(shape), requireGrad(ones([width]))), bf16(shape)),
    },
    {
      name: `head norm + gate forward ${tokens}x${heads}x${width / heads}`,
      bytes: traffic(3, count),
      flops: 0,
      make: () => {
        const [h, o, scale] = [bf16(headShape(sizes)), bf16([1, ...shape]), ones([width])];
        return () => headNormGate(h, o, scale);
      },
    },
    {
      name: `head norm + gate backward ${tokens}x${heads}x${width / heads}`,
      bytes: traffic(5, count),
      flops: 0,
      make: () => {
        const scale = requireGrad(ones([width]));
        const y = headNormGate(leaf(headShape(sizes)), leaf([1, ...shape]), scale);
        return backwardOf(y, bf16([1, ...shape]));
      },
    },
  ];
}

function headShape({ tokens, width, heads }: Sizes): number[] {
  return [1, tokens, heads, width / heads];
}

/** A quarter of the tokens: what a step holds of the hidden width at once is large enough. */
function feedForwardCases({ tokens, width, hidden }: Sizes): Case[] {
  const rows = tokens / 4;
  const shape = [rows, hidden];
  const count = rows * hidden;
  return [
    {
      name: `SwiGLU forward ${shape.join("x")}`,
      bytes: traffic(3, count),
      flops: 0,
      make: () => {
        const [gate, up] = [bf16(shape), bf16(shape)];
        return () => gatedActivation(gate, up, "swish");
      },
    },
    {
      name: `SwiGLU backward ${shape.join("x")}`,
      bytes: traffic(5, count),
      flops: 0,
      make: () => backwardOf(gatedActivation(leaf(shape), leaf(shape), "swish"), bf16(shape)),
    },
    {
      name: `linear ${rows}x${width} to ${hidden}, f32 weight`,
      bytes: traffic(1, rows * (width + hidden)) + 4 * width * hidden,
      flops: 2 * rows * width * hidden,
      make: () => {
        const [x, weight] = [bf16([rows, width]), randn([hidden, width])];
        return () => linear(x, weight);
      },
    },
  ];
}

function lossCases({ scored, width, vocabulary }: Sizes): Case[] {
  const shape = [scored, vocabulary];
  const count = scored * vocabulary;
  return [
    {
      name: `softmax cross entropy forward ${shape.join("x")}`,
      bytes: traffic(1, count),
      flops: 0,
      make: () => {
        const [logits, targets] = [bf16(shape), ids(scored, vocabulary)];
        return () => crossEntropy(logits, targets).loss;
      },
    },
    {
      name: `softmax cross entropy backward ${shape.join("x")}`,
      bytes: traffic(2, count),
      flops: 0,
      make: () => backwardOf(crossEntropy(leaf(shape), ids(scored, vocabulary)).loss, ones([])),
    },
    {
      name: `head + cross entropy + gradients ${scored}x${width}x${vocabulary}`,
      bytes: traffic(2, scored * width) + 8 * width * vocabulary,
      flops: 6 * count * width,
      make: () => {
        const hidden = leaf([scored, width]);
        const weight = requireGrad(randn([vocabulary, width], { std: 0.02 }));
        const targets = ids(scored, vocabulary);
        return () => linearCrossEntropy(hidden, weight, targets).loss;
      },
    },
  ];
}

function embeddingCases({ tokens, width, vocabulary }: Sizes): Case[] {
  const [few, fewest] = [tokens / 4, tokens / 8];
  return [
    {
      name: `embedding forward ${tokens} of ${vocabulary}x${width}`,
      bytes: 6 * tokens * width,
      flops: 0,
      make: () => {
        const [rows, tokenIds] = [randn([vocabulary, width]), ids(tokens, vocabulary)];
        return () => embedding(rows, tokenIds, "bf16");
      },
    },
    embeddingBackward(tokens, vocabulary, width),
    embeddingBackward(tokens, vocabulary, width, "as in text"),
    embeddingBackward(few, vocabulary, width / 2, "as in text"),
    embeddingBackward(fewest, vocabulary, (width * 3) / 16, "as in text"),
  ];
}

/** Every id alike, or the id of rank r in proportion to 1/r, as the words of a text are. */
function embeddingBackward(
  tokens: number,
  vocabulary: number,
  width: number,
  kind: "uniform" | "as in text" = "uniform",
): Case {
  const drawn = kind === "uniform" ? ids : textIds;
  return {
    name: `embedding backward ${tokens} of ${vocabulary}x${width}, ids ${kind}`,
    bytes: 2 * tokens * width + 4 * vocabulary * width,
    flops: 0,
    make: () => {
      const rows = requireGrad(randn([vocabulary, width]));
      return backwardOf(embedding(rows, drawn(tokens, vocabulary), "bf16"), bf16([tokens, width]));
    },
  };
}

function convCases({ tokens, width }: Sizes): Case[] {
  const taps = 4;
  const shape = [8, tokens / 8, width];
  const count = tokens * width;
  return [
    {
      name: `conv of ${taps} forward ${shape.join("x")}`,
      bytes: traffic(2, count),
      flops: 0,
      make: () => {
        const [x, weight, bias] = [bf16(shape), randn([width, taps]), randn([width])];
        return () => causalConv(x, weight, bias).y;
      },
    },
    {
      name: `conv of ${taps} backward ${shape.join("x")}`,
      bytes: traffic(3, count),
      flops: 0,
      make: () => {
        const weight = requireGrad(randn([width, taps]));
        const { y } = causalConv(leaf(shape), weight, requireGrad(randn([width])));
        return backwardOf(y, bf16(shape));
      },
    },
  ];
}

/** The whole update: norm of the gradient (which reads it once more), clip factor, AdamW. */
function optimizerCases({ tokens, width }: Sizes): Case[] {
  const count = (tokens * width) / 2;
  let optimizer: Optimizer | undefined;
  let parameter: Tensor | undefined;
  return [
    {
      name: `AdamW with clipping, ${count} parameters`,
      bytes: 32 * count,
      flops: 0,
      make: () => {
        parameter = keep(requireGrad(randn([count])));
        const gradients = new Gradients(new Map([[parameter, randn([count])]]));
        optimizer = adamw(new Map([["weight", parameter]]), { lr: 1e-4, gradClipNorm: 1 });
        return () => optimizer!.update(gradients).norm;
      },
      before: () => optimizer!.advance(),
      end: () => {
        optimizer?.dispose();
        parameter?.dispose();
      },
    },
  ];
}

/** Random token ids on the default device. */
export function ids(count: number, vocabulary: number, shape: readonly number[] = [count]): Tensor {
  const drawn = Int32Array.from({ length: count }, () => Math.floor(Math.random() * vocabulary));
  return tensor(drawn, { shape });
}

/** Ids of which the one of rank r = id + 1 is drawn in proportion to 1/r. */
function textIds(count: number, vocabulary: number): Tensor {
  const sums: number[] = [];
  for (let rank = 1; rank <= vocabulary; rank++) sums.push((sums.at(-1) ?? 0) + 1 / rank);
  const drawn = Int32Array.from({ length: count }, () => {
    const at = Math.random() * sums.at(-1)!;
    let [low, high] = [0, vocabulary - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sums[middle]! > at) high = middle;
      else low = middle + 1;
    }
    return low;
  });
  return tensor(drawn, { shape: [count] });
}
