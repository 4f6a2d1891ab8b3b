// What a power cut leaves of a folder: file operations run for real, and beside them a model keeps
// what has reached the disk. Bytes are there after a sync of the file, names after a sync of the
// directory, and nothing else is promised.

import { mkdirSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type Files, systemFiles } from "../../lib/checkpoint/files.ts";

interface ModelFile {
  bytes: Uint8Array[];
  /** Number of writes that have reached the disk. */
  durable: number;
}

interface ModelDirectory {
  entries: Map<string, ModelNode>;
  durable: Map<string, ModelNode>;
}

type ModelNode = ModelFile | ModelDirectory;

export class DiskModel {
  readonly #root: ModelDirectory = { entries: new Map(), durable: new Map() };
  readonly #top: string;
  readonly #open = new Map<number, ModelFile>();
  /** Names of the operations so far, with the name of the file that they were about. */
  readonly log: string[] = [];
  readonly files: Files;

  /** `top` exists, is empty, and its own name is durable. */
  constructor(top: string) {
    this.#top = top;
    const names = new Map<number, string>();
    this.files = {
      create: (path) => {
        const descriptor = systemFiles.create(path);
        const file = { bytes: [], durable: 0 };
        this.#directory(dirname(path)).entries.set(basename(path), file);
        this.#open.set(descriptor, file);
        names.set(descriptor, path);
        return this.#note("create", path, descriptor);
      },
      write: (descriptor, bytes) => {
        systemFiles.write(descriptor, bytes);
        this.#open.get(descriptor)!.bytes.push(bytes.slice());
        this.#note("write", names.get(descriptor)!);
      },
      sync: (descriptor) => {
        systemFiles.sync(descriptor);
        const file = this.#open.get(descriptor)!;
        file.durable = file.bytes.length;
        this.#note("sync", names.get(descriptor)!);
      },
      close: (descriptor) => {
        systemFiles.close(descriptor);
        this.#open.delete(descriptor);
        this.#note("close", names.get(descriptor)!);
      },
      makeDirectory: (path) => {
        systemFiles.makeDirectory(path);
        const parent = this.#directory(dirname(path)).entries;
        const made = { entries: new Map(), durable: new Map() };
        if (!parent.has(basename(path))) parent.set(basename(path), made);
        this.#note("makeDirectory", path);
      },
      syncDirectory: (path) => {
        systemFiles.syncDirectory(path);
        const directory = this.#directory(path);
        directory.durable = new Map(directory.entries);
        this.#note("syncDirectory", path);
      },
      rename: (from, to) => {
        systemFiles.rename(from, to);
        const node = this.#directory(dirname(from)).entries.get(basename(from))!;
        this.#directory(dirname(from)).entries.delete(basename(from));
        this.#directory(dirname(to)).entries.set(basename(to), node);
        this.#note("rename", to);
      },
      remove: (path) => {
        systemFiles.remove(path);
        this.#directory(dirname(path)).entries.delete(basename(path));
        this.#note("remove", path);
      },
      list: (path) => systemFiles.list(path),
    };
  }

  #note<T>(operation: string, path: string, result?: T): T {
    const name = path.slice(this.#top.length + 1).replaceAll(/-[0-9a-f]{8}-[0-9a-f-]{27}/g, "");
    this.log.push(`${operation} ${name || "."}`);
    return result as T;
  }

  #directory(path: string): ModelDirectory {
    let node: ModelDirectory = this.#root;
    for (const name of path.slice(this.#top.length).split("/").filter(Boolean)) {
      node = node.entries.get(name) as ModelDirectory;
    }
    return node;
  }

  /**
   * Writes what a power cut at this moment may leave into the new folder `target`. `names` says
   * whether names that were not synchronised are lost or have reached the disk by chance; bytes
   * that were not are lost in either case.
   */
  image(target: string, names: "durable" | "entries"): void {
    const write = (directory: ModelDirectory, path: string) => {
      mkdirSync(path);
      for (const [name, node] of directory[names]) {
        const inner = join(path, name);
        if ("entries" in node) write(node, inner);
        else writeFileSync(inner, Buffer.concat(node.bytes.slice(0, node.durable)));
      }
    };
    write(this.#root, target);
  }
}
