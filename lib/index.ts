// Everything a recipe imports: `import { nn, optim, corpus, scope } from "xlstm"`.

export * from "./tensor/index.ts";
export * as nn from "./nn/index.ts";
export * as optim from "./optim/index.ts";
export { corpus, corpusFromFile } from "./data/corpus.ts";
export { generate, generateText } from "./infer/generate.ts";
export { byteTokenizer } from "./data/tokenizer.ts";
export {
  latestCheckpoint,
  loadCheckpoint,
  openSafetensors,
  saveSafetensors,
} from "./checkpoint/index.ts";
