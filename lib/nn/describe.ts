// How a model prints.

import type { BlockKind } from "./config.ts";
import type { XLSTM } from "./model.ts";
import { countParameters } from "./parameters.ts";

/** The tree of a model's blocks with parameter counts. */
export function describe(model: XLSTM): string {
  const groups = new Map<string, { count: number; shapes: string[] }>();
  for (const [name, parameter] of model.parameters()) {
    const key = /^blocks\.\d+\.\w+/.exec(name)?.[0] ?? name.replace(/\.\w+$/, "");
    const group = groups.get(key) ?? { count: 0, shapes: [] };
    group.count += parameter.size;
    group.shapes.push(`${name.slice(key.length + 1)}[${parameter.shape.join(", ")}]`);
    groups.set(key, group);
  }
  const { name, embeddingDim, numBlocks, vocabSize } = model.config;
  const total = countParameters(model.config);
  const here = model.size === total ? "" : ` (${model.size.toLocaleString("en")} on this rank)`;
  const lines = [
    `XLSTM ${name ?? ""} ${total.toLocaleString("en")} parameters${here}, ${model.dtype}: ` +
      `${numBlocks} blocks, width ${embeddingDim}, vocabulary ${vocabSize}`,
  ];
  for (const [key, { count, shapes }] of groups) {
    const kind = /^blocks\.(\d+)\.mixer$/.exec(key);
    const label = kind ? `${key} (${kindOf(model, Number(kind[1]))})` : key;
    const list = shapes.join(" ");
    const shown = list.length > 60 ? `${list.slice(0, 57)}…` : list;
    lines.push(`  ${label.padEnd(28)} ${count.toLocaleString("en").padStart(12)}  ${shown}`);
  }
  return lines.join("\n");
}

function kindOf(model: XLSTM, index: number): BlockKind {
  return model.blocks.find((block) => block.index === index)!.kind;
}
