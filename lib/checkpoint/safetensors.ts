// Reading of safetensors files through the strict native parser, and the writer beside it.
//
//   using file = openSafetensors("model.safetensors");
//   const weight = file.load("lm_head.weight", "bf16");

import { check, native, scratch } from "../native/library.ts";
import { type DType, dtypeName } from "../tensor/dtype.ts";
import { codeOf, result, type Tensor } from "../tensor/tensor.ts";
import { CheckpointError } from "./errors.ts";
import { typeNames } from "./writer.ts";

export interface TensorEntry {
  /** Type of the tensor that `load` makes; undefined when tensors have no such type. */
  readonly dtype: DType | undefined;
  /** Type in the file, e.g. `BF16`. */
  readonly type: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** Named tensors in one file or in a set of files. */
export interface TensorFile extends Disposable {
  readonly path: string;
  /** In the order of the data. */
  readonly names: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  has(name: string): boolean;
  /** Throws a CheckpointError for an unknown name. */
  entry(name: string): TensorEntry;
  /** Reads a tensor, converted to `dtype` when one is given. */
  load(name: string, dtype?: DType): Tensor;
  close(): void;
}

/** Type k of the format, as the native parser numbers them (`formats/safetensors.zig`). */
const formatTypes = (
  "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 " +
  "I32 U32 F32 I64 U64 F64 C64 F4 F6_E2M3 F6_E3M2"
).split(" ");

/** Types of the format that `load` converts: truth values, and indices that fit into 32 bits. */
const converted: Partial<Record<string, DType>> = { BOOL: "u8", I64: "i32" };

class SafetensorsFile implements TensorFile {
  readonly path: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #entries = new Map<string, TensorEntry & { index: number }>();
  #id: number;

  constructor(path: string) {
    this.path = path;
    const { text, numbers } = scratch();
    const bytes = new TextEncoder().encode(path);
    if (bytes.length === 0 || bytes.length > text.length) {
      const sizes = `${bytes.length} bytes, expected 1 to ${text.length}`;
      throw new CheckpointError({ path }, `the path has ${sizes}`);
    }
    text.set(bytes);
    check(native().xl_file_open(bytes.length), "open");
    this.#id = numbers[0]!;
    const [, tensors, pairs] = numbers;
    try {
      for (let index = 0; index < tensors!; index++) this.#readEntry(index);
      // `fromEntries` defines own properties, so that a key `__proto__` is a key like any other.
      const all = Array.from({ length: pairs! }, (_, index) => readPair(this.#id, index));
      this.metadata = Object.fromEntries(all);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #readEntry(index: number): void {
    check(native().xl_file_entry(this.#id, index), "entry");
    const { text, numbers } = scratch();
    const name = decode(text.slice(0, numbers[0]));
    const code = numbers[1]!;
    const rank = numbers[2]!;
    const shape = Object.freeze([...numbers.subarray(3, 3 + rank)]);
    const type = code >= 0 ? typeNames[dtypeName(code)] : formatTypes[-1 - code]!;
    const dtype = code >= 0 ? dtypeName(code) : converted[type];
    const bytes = numbers[4 + rank]! - numbers[3 + rank]!;
    this.#entries.set(name, { index, dtype, type, shape, bytes });
  }

  get names(): readonly string[] {
    return [...this.#entries.keys()];
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  entry(name: string): TensorEntry {
    return this.#find(name);
  }

  #find(name: string) {
    const found = this.#entries.get(name);
    if (found) return found;
    const known = this.#entries.size;
    const damage = { path: this.path, tensor: name };
    throw new CheckpointError(damage, `is not in the file, which has ${known} others`);
  }

  load(name: string, dtype?: DType): Tensor {
    const { index } = this.#find(name);
    if (this.#id === 0) throw new CheckpointError({ path: this.path }, "the file was closed");
    const code = dtype === undefined ? -1 : codeOf(dtype);
    return result(native().xl_file_load(this.#id, index, code), "load");
  }

  close(): void {
    if (this.#id === 0) return;
    const id = this.#id;
    this.#id = 0;
    check(native().xl_file_close(id), "close");
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Opens a safetensors file: its header is checked by the rules of reliability.md §9.1, the data is
 * read tensor by tensor in `load`. Throws a NativeError that names the rule, tensor and byte.
 */
export function openSafetensors(path: string): TensorFile {
  return new SafetensorsFile(path);
}

/** One metadata pair, collected from as many pieces as it takes. */
function readPair(id: number, index: number): [string, string] {
  let whole = new Uint8Array();
  let offset = 0;
  let keyBytes = 0;
  do {
    check(native().xl_file_metadata(id, index, offset), "metadata");
    const { text, numbers } = scratch();
    if (offset === 0) whole = new Uint8Array(numbers[0]!);
    keyBytes = numbers[1]!;
    whole.set(text.subarray(0, numbers[2]), offset);
    offset += numbers[2]!;
  } while (offset < whole.length);
  return [decode(whole.subarray(0, keyBytes)), decode(whole.subarray(keyBytes + 1))];
}

/** The native parser has checked the encoding; a leading U+FEFF is a character here. */
function decode(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}
