// The naming of other implementations (models.md §12): one row per parameter of ours. Rows that
// name the same tensor are stored in it one after the other along its first axis.

import type { BlockKind } from "./config.ts";
import type { LayoutName } from "./names_layout.ts";

/** Their name (blocks: behind the block's prefix) and the layout it has there. */
export interface Row {
  readonly theirs: string;
  readonly layout: LayoutName;
  /** Two tensors of ours on an axis of their own: [1, 2, ...]. */
  readonly pair?: boolean;
}

/** Our name (blocks: behind `blocks.{i}.`) -> theirs. */
export type Table = Readonly<Record<string, Row>>;

/** A naming: tables for the tensors around the blocks and for every kind of block it knows. */
export interface Naming {
  readonly title: string;
  readonly top: Table;
  readonly blocks: Partial<Record<BlockKind, Table>>;
  /** What stands before the names of a block. */
  readonly prefix: (index: number) => string;
  /** All layers in one tensor with a leading axis. */
  readonly stacked?: boolean;
}

export type FormatName = "jax" | "legacy" | "xlstmLarge" | "huggingFace";

/** Variants of one naming that hold the same tensors differently. */
export interface FormatOptions {
  /** JAX: layers stacked in one tensor ("scan" trees). Default false. */
  readonly stacked?: boolean;
  /** JAX paper blocks: q and k in one tensor. Default false. */
  readonly fusedQueryKey?: boolean;
  /** Legacy PyTorch: layout of the sLSTM's recurrent weights. Default "vanilla". */
  readonly slstmLayout?: "vanilla" | "cuda";
  /** xlstm_large, Hugging Face: `weight_mode` "fused". Default false. */
  readonly fusedWeights?: boolean;
}

/** The naming of a format. */
export function namingOf(format: FormatName, options: FormatOptions = {}): Naming {
  switch (format) {
    case "jax":
      return jax(options);
    case "legacy":
      return legacy(options);
    case "xlstmLarge":
      return large("xlstm_large", "embedding.weight", options);
    case "huggingFace":
      return large("Hugging Face xlstm", "backbone.embeddings.weight", options);
  }
}

function row(theirs: string, layout: LayoutName = "same"): Row {
  return { theirs, layout };
}

/** `a.{x,y}.c` -> one entry per alternative, in order. */
function each(names: readonly string[], entry: (name: string) => readonly [string, Row]): Table {
  return Object.fromEntries(names.map(entry));
}

function jax({ stacked = false, fusedQueryKey = false }: FormatOptions): Naming {
  const stack = "xlstm_block_stack.blocks";
  const block: Table = {
    "mixer_norm.scale": row("xlstm_res_block.xlstm_norm.sharded.scale", "lead"),
    "mixer_post_norm.scale": row("xlstm_res_block.xlstm_post_norm.sharded.scale", "lead"),
    "mixer.out.weight": row("xlstm_res_block.xlstm.proj_down.Dense_0.kernel", "transpose"),
  };
  return {
    title: stacked ? "JAX (stacked layers)" : "JAX",
    top: {
      "embedding.table": row("token_embedding.sharded.embedding", "lead"),
      "out_norm.scale": row("lm_head.out_norm.scale"),
      "lm_head.weight": row("lm_head.out_dense.kernel", "transpose"),
    },
    blocks: { v1: { ...block, ...jaxV1 }, paper: { ...block, ...jaxPaper(fusedQueryKey) } },
    prefix: (index) => (stacked ? `${stack}.block.` : `${stack}.${index}.`),
    stacked,
  };
}

const jaxV1: Table = {
  ...each(["q", "k", "v", "o"], (name) => [
    `mixer.${name}.weight`,
    row(`xlstm_res_block.xlstm.dense_${name}.Dense_0.kernel`, "transpose"),
  ]),
  ...each(["i", "f"], (gate) => [
    `mixer.${gate}_gate.weight`,
    row(`xlstm_res_block.xlstm.${gate}gate.Dense_0.kernel`, "transpose"),
  ]),
  ...each(["i", "f"], (gate) => [
    `mixer.${gate}_gate.bias`,
    row(`xlstm_res_block.xlstm.${gate}gate.Dense_0.bias`),
  ]),
  ...each(["q", "k"], (name) => [
    `mixer.${name}_norm.scale`,
    row(`xlstm_res_block.xlstm.${name}_norm.scale`),
  ]),
  "mixer.head_norm.scale": row("xlstm_res_block.xlstm.outnorm.sharded.scale", "leadHeads"),
  "ffn_norm.scale": row("ffn_res_block.ffn_norm.sharded.scale", "lead"),
  "ffn_post_norm.scale": row("ffn_res_block.ffn_post_norm.sharded.scale", "lead"),
  "ffn.gate.weight": row("ffn_res_block.ffn.proj_up_gate.Dense_0.kernel", "transpose"),
  "ffn.up.weight": row("ffn_res_block.ffn.proj_up.Dense_0.kernel", "transpose"),
  "ffn.down.weight": row("ffn_res_block.ffn.proj_down.Dense_0.kernel", "transpose"),
};

function jaxPaper(fusedQueryKey: boolean): Table {
  const outer = "xlstm_res_block.xlstm";
  const inner = `${outer}.inner_layer.sharded`;
  const fused: Row = { theirs: `${inner}.qk_proj.kernel`, layout: "same", pair: true };
  return {
    "mixer.up.weight": row(`${outer}.proj_up_mlstm.Dense_0.kernel`, "transpose"),
    "mixer.z.weight": row(`${outer}.proj_up_z.Dense_0.kernel`, "transpose"),
    "mixer.conv.weight": row(`${inner}.conv1d.conv.kernel`, "leadConv"),
    "mixer.conv.bias": row(`${inner}.conv1d.conv.bias`, "lead"),
    "mixer.q.weight": fusedQueryKey ? fused : row(`${inner}.q_proj.kernel`, "lead"),
    "mixer.k.weight": fusedQueryKey ? fused : row(`${inner}.k_proj.kernel`, "lead"),
    "mixer.v.weight": row(`${inner}.v_proj.kernel`, "lead"),
    ...each(["i", "f"], (gate) => [
      `mixer.${gate}_gate.weight`,
      row(`${inner}.mlstm_cell.${gate}gate.kernel`, "leadTranspose"),
    ]),
    ...each(["i", "f"], (gate) => [
      `mixer.${gate}_gate.bias`,
      row(`${inner}.mlstm_cell.${gate}gate.bias`, "lead"),
    ]),
    "mixer.head_norm.scale": row(`${inner}.mlstm_cell.outnorm.scale`, "leadHeads"),
    "mixer.skip": row(`${inner}.learnable_skip`, "lead"),
    "mixer.skip_proj.weight": row(`${inner}.x_mlstm_conv_scaling.kernel`, "lead"),
  };
}

function legacy({ slstmLayout = "vanilla" }: FormatOptions): Naming {
  const vanilla = slstmLayout === "vanilla";
  const shared: Table = {
    "mixer_norm.scale": row("xlstm_norm.weight"),
    "mixer.conv.weight": row("xlstm.conv1d.conv.weight", "squeezeConv"),
    "mixer.conv.bias": row("xlstm.conv1d.conv.bias"),
  };
  return {
    title: `legacy PyTorch (${slstmLayout} sLSTM)`,
    top: {
      "embedding.table": row("token_embedding.weight"),
      "out_norm.scale": row("xlstm_block_stack.post_blocks_norm.weight"),
      "lm_head.weight": row("lm_head.weight"),
    },
    blocks: {
      paper: { ...shared, ...legacyPaper },
      slstm: {
        ...shared,
        // Their module `fgate` feeds the input gate and `igate` the forget gate; ours are named
        // after what they feed, so the two cross.
        "mixer.i_gate.weight": row("xlstm.fgate.weight"),
        "mixer.f_gate.weight": row("xlstm.igate.weight"),
        "mixer.z_gate.weight": row("xlstm.zgate.weight"),
        "mixer.o_gate.weight": row("xlstm.ogate.weight"),
        "mixer.recurrent": row(
          "xlstm.slstm_cell._recurrent_kernel_",
          vanilla ? "recurrentVanilla" : "recurrentCuda",
        ),
        "mixer.cell_bias": row("xlstm.slstm_cell._bias_", vanilla ? "biasVanilla" : "biasCuda"),
        "mixer.head_norm.scale": row("xlstm.group_norm.weight"),
        "ffn_norm.scale": row("ffn_norm.weight"),
        "ffn.gate.weight": row("ffn.proj_up.weight"),
        "ffn.up.weight": row("ffn.proj_up.weight"),
        "ffn.down.weight": row("ffn.proj_down.weight"),
      },
    },
    prefix: (index) => `xlstm_block_stack.blocks.${index}.`,
  };
}

const legacyPaper: Table = {
  "mixer.up.weight": row("xlstm.proj_up.weight"),
  "mixer.z.weight": row("xlstm.proj_up.weight"),
  ...each(["q", "k", "v"], (name) => [`mixer.${name}.weight`, row(`xlstm.${name}_proj.weight`)]),
  ...each(["i", "f"], (gate) => [
    `mixer.${gate}_gate.weight`,
    row(`xlstm.mlstm_cell.${gate}gate.weight`),
  ]),
  ...each(["i", "f"], (gate) => [
    `mixer.${gate}_gate.bias`,
    row(`xlstm.mlstm_cell.${gate}gate.bias`),
  ]),
  "mixer.head_norm.scale": row("xlstm.mlstm_cell.outnorm.weight"),
  "mixer.skip": row("xlstm.learnable_skip"),
  "mixer.out.weight": row("xlstm.proj_down.weight"),
};

function large(title: string, embedding: string, { fusedWeights = false }: FormatOptions): Naming {
  return {
    title: fusedWeights ? `${title} (fused weights)` : title,
    top: {
      "embedding.table": row(embedding),
      "out_norm.scale": row("backbone.out_norm.weight"),
      ...(title === "xlstm_large" ? { "out_norm.bias": row("backbone.out_norm.bias") } : {}),
      "lm_head.weight": row("lm_head.weight"),
    },
    blocks: {
      v1: { ...largeTensors("weight", fusedWeights), ...largeTensors("bias", fusedWeights) },
    },
    prefix: (index) => `backbone.blocks.${index}.`,
  };
}

/** Weights and biases follow the same names; scales of norms are called weights there. */
function largeTensors(kind: "weight" | "bias", fused: boolean): Table {
  const layer = "mlstm_layer";
  const scale = kind === "weight" ? "scale" : "bias";
  const projections = { q: "q", k: "k", v: "v", o: "ogate_preact" };
  const mixer = Object.entries(projections).map(([ours, theirs]) => [
    `mixer.${ours}.${kind}`,
    row(`${layer}.${fused ? "qkv_opreact" : theirs}.${kind}`),
  ]);
  const gates = ["i", "f"].map((gate) => [
    `mixer.${gate}_gate.${kind}`,
    row(`${layer}.${fused ? "if" : gate}gate_preact.${kind}`),
  ]);
  return {
    ...Object.fromEntries([...mixer, ...gates]),
    [`mixer_norm.${scale}`]: row(`norm_mlstm.${kind}`),
    [`mixer.head_norm.${scale}`]: row(`${layer}.multihead_norm.${kind}`),
    [`mixer.out.${kind}`]: row(`${layer}.out_proj.${kind}`),
    [`ffn_norm.${scale}`]: row(`norm_ffn.${kind}`),
    [`ffn.gate.${kind}`]: row(fused ? `ffn.proj_up_gate_z.${kind}` : `ffn.proj_up_gate.${kind}`),
    [`ffn.up.${kind}`]: row(fused ? `ffn.proj_up_gate_z.${kind}` : `ffn.proj_up.${kind}`),
    [`ffn.down.${kind}`]: row(`ffn.proj_down.${kind}`),
  };
}
