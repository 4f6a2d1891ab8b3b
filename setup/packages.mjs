// The packages of package-lock.json, the pinned Bun among them. npm installs them where there is
// one; a machine that only has Bun installs the same lock file with it.

import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { capture, exclusively, find, isOffline, root, say, SetupError } from "./terminal.mjs";
import { tail, tools } from "./terminal.mjs";

const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

/** The pinned version of Bun. */
export const bunVersion = manifest.devDependencies.bun;
/** The pinned Bun. */
export const bun = join(root, "node_modules", ".bin", "bun");

/** npm waits more than a minute by default before it says that there is no network. */
const patience = [
  "--fetch-retries=2",
  "--fetch-retry-mintimeout=1000",
  "--fetch-retry-maxtimeout=4000",
];

const stampPath = join(root, "node_modules", ".xlstm-setup");

/** Installs what the lock file says when it is not installed already. */
export async function ensurePackages() {
  checkMachine();
  const wanted = lockHash();
  if (isStamped(wanted)) return;
  await exclusively(() => {
    if (isStamped(wanted)) return;
    if (!isInstalled()) install();
    ensureBunRuns();
    writeFileSync(stampPath, wanted);
  });
}

function checkMachine() {
  const [major] = process.versions.node.split(".").map(Number);
  if (major < 20) {
    const have = `Node ${process.versions.node}`;
    throw new SetupError(`${have} is too old; install Node 20 or newer, or Bun ${bunVersion}.`);
  }
  if (process.platform !== "linux" || process.arch !== "x64") {
    const have = `${process.platform} ${process.arch}`;
    throw new SetupError(`the native library is built for x86_64 Linux, and this is ${have}.`);
  }
}

function lockHash() {
  const lock = readFileSync(join(root, "package-lock.json"));
  return createHash("sha256").update(lock).digest("hex");
}

function isStamped(wanted) {
  if (!existsSync(stampPath) || !existsSync(bun)) return false;
  return readFileSync(stampPath, "utf8") === wanted;
}

/** Whether node_modules already holds every package the lock file asks for on this machine. */
function isInstalled() {
  const { packages } = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
  return Object.entries(packages).every(([path, { version, optional }]) => {
    if (path === "" || optional) return true;
    const installed = join(root, path, "package.json");
    if (!existsSync(installed)) return false;
    return JSON.parse(readFileSync(installed, "utf8")).version === version;
  });
}

function install() {
  const npm = find("npm");
  if (!npm && !process.versions.bun) {
    throw new SetupError(`npm is missing; install npm (it comes with Node), or Bun ${bunVersion}.`);
  }
  say("installing the packages of package-lock.json into node_modules (once)");
  const [command, args, env] = npm
    ? [npm, ["ci", "--no-audit", "--no-fund", ...patience, "--cache", join(tools, "npm-cache")], {}]
    : [
        process.execPath,
        ["install", "--frozen-lockfile"],
        { BUN_INSTALL_CACHE_DIR: join(tools, "bun-cache") },
      ];
  const { status, output } = capture(command, args, { env });
  if (status === 0) return;
  if (isOffline(output)) {
    throw new SetupError(
      "the npm registry cannot be reached; check the network and proxy, then run this again.",
    );
  }
  throw new SetupError(`\`${command} ${args.join(" ")}\` failed:\n${tail(output)}`);
}

function ensureBunRuns() {
  let found = versionOf(bun);
  if (found !== bunVersion) {
    // Package managers that block install scripts leave a text file in place of the program.
    capture(process.execPath, [join(root, "node_modules", "bun", "install.js")]);
    found = versionOf(bun);
  }
  if (found === bunVersion) return;
  const have = found ? `is version ${found}` : "does not start";
  throw new SetupError(
    `Bun ${bunVersion} is needed, and node_modules/.bin/bun ${have}; ` +
      "delete node_modules and run this again.",
  );
}

function versionOf(program) {
  const { status, output } = capture(program, ["--version"]);
  return status === 0 ? output.trim() : undefined;
}
