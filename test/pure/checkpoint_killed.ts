// Saves step 1, then kills itself on entry of the n-th file operation of saving step 2 (a write has
// written half of its bytes by then). Without an n-th operation it prints how many there are.
// Started by checkpoint_faults.test.ts.

import { type Files, systemFiles } from "../../lib/checkpoint/files.ts";
import { saveCheckpoint } from "../../lib/checkpoint/protocol.ts";
import { bytesTensor } from "./checkpoint_fixture.ts";

const [directory, last] = process.argv.slice(2);

function contents(step: number) {
  const tensors = [["w", bytesTensor("f32", [40], step)]] as const;
  return { step, tensors, recipe: {}, data: {}, rng: {} };
}

let count = 0;
const deadly = Object.entries(systemFiles).map(([name, operation]) => [
  name,
  (...args: never[]) => {
    if (++count === Number(last)) {
      if (name === "write") {
        const [descriptor, bytes] = args as unknown as [number, Uint8Array];
        systemFiles.write(descriptor, bytes.subarray(0, bytes.length >> 1));
      }
      process.kill(process.pid, "SIGKILL");
    }
    return (operation as (...args: never[]) => unknown)(...args);
  },
]);

saveCheckpoint(directory!, contents(1));
const files = Object.fromEntries(deadly) as Files;
saveCheckpoint(directory!, contents(2), { files, keep: { newest: 1 } });
console.log(count);
