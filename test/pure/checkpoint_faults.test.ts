import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CheckpointError, NoSoundCheckpointError } from "../../lib/checkpoint/errors.ts";
import { type Files, systemFiles } from "../../lib/checkpoint/files.ts";
import {
  latestCheckpoint,
  listCheckpoints,
  saveCheckpoint,
} from "../../lib/checkpoint/protocol.ts";
import { verifyCheckpoint } from "../../lib/checkpoint/verify.ts";
import { bytesTensor } from "./checkpoint_fixture.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "xlstm-faults-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const at = (name: string) => join(folder, name);
const tensorsFile = "rank-0.safetensors";

function contents(step: number, elements = 40) {
  const tensors = [
    ["w", bytesTensor("f32", [elements], step)],
    ["b", bytesTensor("bf16", [5], step)],
  ] as const;
  return { step, tensors, recipe: {}, data: {}, rng: {} };
}

test("kill -9 on entry of every file operation, and in the middle of a write", async () => {
  const script = join(import.meta.dir, "checkpoint_killed.ts");
  const run = async (directory: string, operation: number) => {
    const args = [process.execPath, script, directory, String(operation)];
    const child = Bun.spawn(args, { stdout: "pipe", stderr: "inherit" });
    return { code: await child.exited, text: await child.stdout.text() };
  };
  // Operation 0 does not exist: the child counts them and ends.
  const dry = await run(at("dry"), 0);
  expect(dry.code).toBe(0);
  const total = Number(dry.text);
  expect(total).toBeGreaterThan(15);
  const outcomes = new Map<string, number>();
  for (let operation = 1; operation <= total; operation++) {
    const directory = at(`run-${operation}`);
    const { code } = await run(directory, operation);
    expect(code).toBe(137);
    const lines: string[] = [];
    const found = latestCheckpoint(directory, { warn: (line) => lines.push(line) });
    expect(lines).toEqual([]);
    verifyCheckpoint(found!);
    const step = found!.slice(directory.length + 1);
    outcomes.set(step, (outcomes.get(step) ?? 0) + 1);
    saveCheckpoint(directory, contents(3), { keep: { newest: 1 } });
    expect(readdirSync(directory).sort()).toEqual(["latest", "step-3"]);
  }
  expect([...outcomes.keys()]).toEqual(["step-1", "step-2"]);
}, 60_000);

const mounted = mountTmpfs("probe", 64);
if (mounted) unmount(mounted);
else console.warn("SKIPPED full disk on a real file system: tmpfs cannot be mounted (needs root)");

function mountTmpfs(name: string, kibibytes: number): string | undefined {
  const path = mkdtempSync(join(tmpdir(), `xlstm-tmpfs-${name}-`));
  const options = ["-t", "tmpfs", "-o", `size=${kibibytes}k`, "tmpfs", path];
  if (Bun.which("mount") && Bun.spawnSync(["mount", ...options]).success) return path;
  rmSync(path, { recursive: true });
  return undefined;
}

function unmount(path: string): void {
  Bun.spawnSync(["umount", path]);
  rmSync(path, { recursive: true });
}

test.skipIf(!mounted)("full disk: the save fails in one line, the old checkpoint stays", () => {
  const page = 4;
  const disk = mountTmpfs("full", 400)!;
  try {
    const directory = join(disk, "checkpoints");
    const elements = 10_000; // 10 pages of tensors, one of the manifest, one of `latest`
    saveCheckpoint(directory, contents(1, elements));
    const grow = (kibibytes: number) => {
      const options = ["-o", `remount,size=${kibibytes}k`, disk];
      expect(Bun.spawnSync(["mount", ...options]).success).toBe(true);
    };
    const failures = new Set<string>();
    let pages = 12;
    for (; !existsSync(join(directory, "step-2")); pages++) {
      expect(pages).toBeLessThan(40);
      grow(pages * page);
      const lines: string[] = [];
      const warn = (line: string) => lines.push(line);
      try {
        saveCheckpoint(directory, contents(2, elements), { keep: { newest: 1 }, warn });
      } catch (error) {
        expect(error).toBeInstanceOf(CheckpointError);
        const { message } = error as Error;
        expect(message).toMatch(/step-2: was not saved: .*ENOSPC/);
        expect(message).not.toContain("\n");
        failures.add(message.includes(tensorsFile) ? "tensors" : "manifest");
        expect(readdirSync(directory).sort()).toEqual(["latest", "step-1"]);
        expect(latestCheckpoint(directory, { warn })).toEndWith("step-1");
        expect(lines).toEqual([]);
      }
    }
    expect([...failures]).toEqual(["tensors", "manifest"]);
    expect(latestCheckpoint(directory)).toEndWith("step-2");
  } finally {
    unmount(disk);
  }
});

/** A checkpoint of step 2 over a good one of step 1, and what its files hold. */
function pair() {
  const directory = at("pair");
  saveCheckpoint(directory, contents(1));
  const path = saveCheckpoint(directory, contents(2));
  const files = ["manifest.json", tensorsFile].map((name) => {
    return { file: join(path, name), bytes: readFileSync(join(path, name)) };
  });
  return { directory, path, files };
}

test("files cut at every boundary and at 64 places, one byte more: all detected", () => {
  const { path, files } = pair();
  verifyCheckpoint(path);
  for (const { file, bytes } of files) {
    const header = file.endsWith(tensorsFile) ? 8 + Number(bytes.readBigUInt64LE(0)) : 8;
    const edges = [0, 7, 8, header, header + 160, bytes.length - 1];
    const near = edges.flatMap((edge) => [edge - 1, edge, edge + 1]);
    const random = Array.from({ length: 64 }, (_, i) => Math.floor((i * bytes.length) / 64));
    for (const length of new Set([...near, ...random])) {
      if (length < 0 || length >= bytes.length) continue;
      truncateSync(file, length);
      expect(() => verifyCheckpoint(path)).toThrow(CheckpointError);
      writeFileSync(file, bytes);
    }
    writeFileSync(file, Buffer.concat([bytes, Buffer.of(0)]));
    expect(() => verifyCheckpoint(path)).toThrow(CheckpointError);
    writeFileSync(file, bytes);
  }
  verifyCheckpoint(path);
});

test("1000 flips of single bits: all detected, file and tensor named", () => {
  const { path, files } = pair();
  let state = 20261;
  const next = (limit: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
  let named = 0;
  for (let round = 0; round < 1000; round++) {
    const { file, bytes } = files[round % 2]!;
    const damaged = Uint8Array.from(bytes);
    const position = next(bytes.length);
    const bit = next(8);
    damaged[position] = damaged[position]! ^ (1 << bit);
    writeFileSync(file, damaged);
    let message = "";
    try {
      verifyCheckpoint(path);
    } catch (error) {
      expect(error).toBeInstanceOf(CheckpointError);
      message = (error as Error).message;
    }
    if (!message.startsWith(file)) throw new Error(`bit ${bit} of byte ${position}: "${message}"`);
    if (/tensor "[wb]": the data/.test(message)) named++;
    writeFileSync(file, bytes);
  }
  expect(named).toBeGreaterThan(100);
});

test("a zeroed range, files of two steps swapped, one tensor file over the other", () => {
  const { directory, path, files } = pair();
  const { file, bytes } = files[1]!;
  writeFileSync(file, Uint8Array.from(bytes).fill(0, bytes.length - 64, bytes.length));
  expect(() => verifyCheckpoint(path)).toThrow(/tensor "w": the data/);
  const older = join(directory, "step-1", tensorsFile);
  copyFileSync(older, file);
  expect(() => verifyCheckpoint(path)).toThrow(/tensor "w": the data/);
  renameSync(older, at("aside"));
  writeFileSync(older, bytes);
  const options = { warn: () => {} };
  expect(() => latestCheckpoint(directory, options)).toThrow(NoSoundCheckpointError);
});

test("all damaged: an error with exit code 66 every time, unless a fresh start is allowed", () => {
  const { directory } = pair();
  for (const { path } of listCheckpoints(directory)) truncateSync(join(path, tensorsFile), 9);
  const lines: string[] = [];
  const warn = (line: string) => lines.push(line);
  for (const expected of [2, 2]) {
    let caught: unknown;
    try {
      latestCheckpoint(directory, { warn });
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(NoSoundCheckpointError);
    expect(caught).toMatchObject({ exitCode: 66 });
    expect((caught as Error).message).toContain("(step-1.bad, step-2.bad)");
    expect(lines).toHaveLength(expected);
  }
  expect(latestCheckpoint(directory, { warn, allowFresh: true })).toBeUndefined();
});

/** Runs code in a child: root may read everything, and tests need their descriptors themselves. */
function inChild(library: string, prelude: string, call: string): string {
  const code = `
    const library = await import(${JSON.stringify(join(import.meta.dir, "../..", library))});
    const { openSync } = await import("node:fs");
    ${prelude}
    try { library.${call}; } catch (error) { console.log(error.constructor.name, error.message); }`;
  const child = Bun.spawnSync([
    "sh",
    "-c",
    'ulimit -n 64; exec "$0" -e "$1"',
    process.execPath,
    code,
  ]);
  return child.stdout.toString();
}

test("no right or no descriptor to read a checkpoint: an error, and it stays where it is", () => {
  const { directory, path, files } = pair();
  const exhaust = 'try { for (;;) openSync("/dev/null", "r"); } catch {}';
  const verify = inChild("lib/checkpoint/verify.ts", exhaust, `verifyCheckpoint("${path}")`);
  expect(verify).toMatch(/^UnreadableError .*manifest.json: cannot be read: EMFILE/);
  chmodSync(folder, 0o755);
  chmodSync(files[0]!.file, 0);
  const drop = "if (process.getuid() === 0) process.setuid(65534);";
  const find = inChild("lib/checkpoint/protocol.ts", drop, `latestCheckpoint("${directory}")`);
  expect(find).toMatch(/^UnreadableError .*manifest.json: cannot be read: EACCES/);
  expect(listCheckpoints(directory).map(({ step }) => step)).toEqual([2, 1]);
});

test("symbolic links, folders and pipes in the place of files are refused", () => {
  const { path, files } = pair();
  for (const { file, bytes } of files) {
    renameSync(file, at("real"));
    symlinkSync(at("real"), file);
    expect(() => verifyCheckpoint(path)).toThrow(/is a symbolic link/);
    rmSync(file);
    mkdirSync(file);
    expect(() => verifyCheckpoint(path)).toThrow(/is not a plain file/);
    rmSync(file, { recursive: true });
    expect(Bun.spawnSync(["mkfifo", file]).success).toBe(true);
    expect(() => verifyCheckpoint(path)).toThrow(/is not a plain file/);
    rmSync(file);
    writeFileSync(file, bytes);
  }
  verifyCheckpoint(path);
});

for (const [which, lost] of [
  ["first write to the tensors", 1],
  ["data of the tensors", 2],
  ["manifest", 4],
] as const) {
  test(`a write that is lost without an error never commits: ${which}`, () => {
    saveCheckpoint(folder, contents(1));
    let count = 0;
    const write: Files["write"] = (descriptor, bytes) => {
      if (++count !== lost) systemFiles.write(descriptor, bytes);
    };
    const files = { ...systemFiles, write };
    const save = () => saveCheckpoint(folder, contents(2), { files, keep: { newest: 1 } });
    expect(save).toThrow(/step-2: was not saved: .*(has \d+ bytes, expected|cut short)/);
    expect(readdirSync(folder).sort()).toEqual(["latest", "step-1"]);
  });
}

test("a run that went back to an older step keeps what it saves", () => {
  for (const step of [5, 10, 15]) saveCheckpoint(folder, contents(step));
  saveCheckpoint(folder, contents(7), { keep: { newest: 1 } });
  expect(listCheckpoints(folder).map(({ step }) => step)).toEqual([15, 7]);
});

test("the newest is looked for while another process saves and deletes: no damage", async () => {
  const script = join(import.meta.dir, "checkpoint_victim.ts");
  const child = Bun.spawn([process.execPath, script, folder, "1"], { stdout: "ignore" });
  const steps = new Set<string>();
  const lines: string[] = [];
  const warn = (line: string) => lines.push(line);
  try {
    const end = performance.now() + 30_000;
    while (steps.size < 30 && performance.now() < end) {
      const found = latestCheckpoint(folder, { warn });
      if (found) steps.add(found);
      else await Bun.sleep(5);
    }
    expect(child.exitCode).toBeNull();
  } finally {
    child.kill(9);
    await child.exited;
  }
  expect(lines).toEqual([]);
  expect(steps.size).toBe(30);
}, 60_000);

test("a manifest that leaves bytes of a file to no tensor is refused", () => {
  const { path } = pair();
  const file = join(path, "manifest.json");
  const reseal = (change: (manifest: { tensors: { offset: number }[] }) => void) => {
    const copy = at("resealed");
    cpSync(path, copy, { recursive: true });
    const { sha256: _, ...manifest } = JSON.parse(readFileSync(file, "utf8"));
    change(manifest);
    const body = JSON.stringify(manifest);
    const hash = new Bun.CryptoHasher("sha256").update(body).digest("hex");
    writeFileSync(join(copy, "manifest.json"), `${body.slice(0, -1)},"sha256":"${hash}"}\n`);
    return copy;
  };
  verifyCheckpoint(reseal(() => {}));
  const shorter = reseal(({ tensors }) => tensors.pop());
  expect(() => verifyCheckpoint(shorter)).toThrow(/its tensors end at byte/);
  const moved = reseal(({ tensors }) => (tensors[0]!.offset += 4));
  expect(() => verifyCheckpoint(moved)).toThrow(/tensor "w": begins at byte/);
});
