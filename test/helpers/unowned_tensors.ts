// A child process of memory.test.ts: 20,000 tensors of 64 KiB outside of every scope, in one
// synchronous loop that never disposes. Prints the resident set before and after in bytes.

import { memory, zeros } from "../../lib/tensor/index.ts";

zeros([128, 128]).dispose();
const before = process.memoryUsage.rss();
let most = 0;
for (let i = 0; i < 20_000; i++) {
  zeros([128, 128]);
  if (i % 100 === 0) most = Math.max(most, process.memoryUsage.rss());
}
console.log(JSON.stringify({ before, most, peakBytes: memory().peakBytes }));
