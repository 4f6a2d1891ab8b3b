// Configuration files through c12, with everything turned off that would let a file change a run
// without being named on the command line (bun.md §11).

import { existsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { loadConfig } from "c12";
import { createDefu } from "defu";
import { UsageError } from "./exit.ts";

/** Settings of one file; `file` is the path as it is shown to the user. */
export interface Layer {
  readonly file: string;
  readonly settings: Record<string, unknown>;
}

/** Settings of a file and all it extends. */
export interface LoadedConfig {
  readonly settings: Record<string, unknown>;
  /** Nearest first: the file itself, then what it extends. */
  readonly layers: readonly Layer[];
}

// Lists replace each other; defu alone would join the betas of two layers into four numbers.
const merge = createDefu((object, key, value) => {
  if (!Array.isArray(value)) return false;
  object[key] = value;
  return true;
});

const remote = /^(gh|github|gitlab|bitbucket|https?):/;

/**
 * Loads `path` (.ts, .js, .json, .json5, .jsonc, .yaml, .toml) and the files it `extends`.
 * `variant` lays the file's own `$env.<variant>` over it. UsageError for a missing or broken file.
 */
export async function loadConfigFile(path: string, variant?: string): Promise<LoadedConfig> {
  const file = resolve(path);
  if (!existsSync(file)) throw new UsageError(`config=${path}: there is no such file`);
  let found = variant === undefined;
  try {
    const loaded = await loadConfig<Record<string, unknown>>({
      cwd: dirname(file),
      configFile: file,
      rcFile: false,
      globalRc: false,
      packageJson: false,
      dotenv: false,
      giget: false,
      omit$Keys: true,
      configFileRequired: true,
      envName: variant ?? false,
      merger: merge as never,
      resolve: (id, { cwd }) => checkSource(id, cwd ?? ".", path),
    });
    const layers: Layer[] = [];
    for (const layer of loaded.layers ?? []) {
      if (!layer.config) continue;
      const { extends: _, ...settings } = layer.config;
      if (variant !== undefined) found ||= hasVariant(settings, variant);
      for (const key of Object.keys(settings)) if (key.startsWith("$")) delete settings[key];
      layers.push({ file: layer.source ?? layer.configFile ?? path, settings });
    }
    if (!found)
      throw new UsageError(`config=${path} has no $env.${variant}: env=${variant} does nothing`);
    return { settings: loaded.config, layers };
  } catch (error) {
    if (error instanceof UsageError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new UsageError(`config=${path} cannot be loaded: ${reason}`);
  }
}

function hasVariant(settings: Record<string, unknown>, variant: string): boolean {
  const variants = settings["$env"] as Record<string, unknown> | undefined;
  return variants?.[variant] !== undefined || settings[`$${variant}`] !== undefined;
}

/** c12 only warns about what it cannot extend; a run with half of its settings must not start. */
function checkSource(id: string, cwd: string, from: string): undefined {
  if (id === ".") return;
  if (remote.test(id)) {
    throw new UsageError(`config=${from} extends "${id}": only files of this machine are read`);
  }
  const endings = ["", ".ts", ".js", ".json", ".json5", ".jsonc", ".yaml", ".yml", ".toml"];
  if (endings.some((ending) => existsSync(resolve(cwd, id + ending)))) return;
  throw new UsageError(`config=${from} extends "${id}", which is not a file next to it`);
}
