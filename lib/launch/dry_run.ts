// Dry runs: one process asks a recipe what all its ranks would do, and none of them starts.

import { integer, type Variables } from "./variables.ts";

const variable = "XL_DRY_RUN";

/** How many ranks to plan for; undefined when this is a run and no plan. */
export function plannedWorld(variables: Variables = process.env): number | undefined {
  return integer(variables, variable);
}

/** Runs a recipe's command once, to print its plan for `world` ranks. Returns its exit code. */
export async function dryRun(
  command: readonly string[],
  world: number,
  variables: Variables = process.env,
): Promise<number> {
  const child = Bun.spawn([...command], {
    env: { ...variables, [variable]: String(world) },
    stdio: ["inherit", "inherit", "inherit"],
  });
  return child.exited;
}
