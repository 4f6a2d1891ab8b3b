// A rank of test/multi/group_faults.test.ts: rank 0 sends what rank 1 does not expect, or a rank
// never comes to the group.

import { connectGroups } from "../../lib/mesh/group.ts";
import { configure } from "../../lib/native/library.ts";
import { type Device, useDevice, zeros } from "../../lib/tensor/index.ts";
import { runRank } from "./ranks.ts";

await runRank(async (bootstrap, [what, chosen]) => {
  const device = (chosen ?? "cpu") as Device;
  if (device === "cuda") configure({ gpu: bootstrap.rank });
  useDevice(device);
  if (what === "absent" && bootstrap.rank === 1) return "elsewhere";
  const ranks = Array.from({ length: bootstrap.size }, (_, i) => i);
  const options = { deadline: what === "absent" ? 0.5 : 60 };
  const group = await connectGroups(bootstrap, "pp", ranks, device, options);
  if (bootstrap.rank === 0) group.send(zeros([4]), 1, "forward 3");
  else group.receive([4], "f32", 0, "forward 2");
  return "no error";
});
