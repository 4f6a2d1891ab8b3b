// A rank of test/multi/checkpoint.test.ts: saves step 1 and step 2 with the others, and may kill
// itself on entry of an operation of the second save.
//
//   arguments: directory, ranks that die ("1,2"; "" for none), number of the operation

import { systemFiles } from "../../lib/checkpoint/files.ts";
import { ranksOf } from "../../lib/checkpoint/group_ranks.ts";
import { latestCheckpoint } from "../../lib/checkpoint/protocol.ts";
import { saveShared } from "../../lib/checkpoint/shared.ts";
import { connectGroups } from "../../lib/mesh/group.ts";
import { threePieces, watchedFiles } from "../pure/checkpoint_ranks.ts";
import { runRank } from "./ranks.ts";

await runRank(async (bootstrap, [directory, victims, operation]) => {
  const { rank } = bootstrap;
  const group = await connectGroups(bootstrap, "world", [0, 1, 2], "cpu", { callDeadline: 20 });
  const ranks = ranksOf(group);
  const save = (step: number, files = systemFiles) => {
    const contents = { step, pieces: threePieces(step, rank), mesh: { tp: 3 } };
    const facts = { recipe: { name: "drei — \ud83e\udd95" }, data: { row: step }, rng: {} };
    return saveShared(directory!, { ...contents, ...facts }, ranks, { keep: { newest: 1 }, files });
  };
  const isVictim = victims!.split(",").includes(String(rank));
  const deadly = watchedFiles((count) => {
    if (isVictim && count === Number(operation)) process.kill(process.pid, "SIGKILL");
  }, systemFiles);
  try {
    save(1);
    save(2, deadly);
    return { latest: latestCheckpoint(directory!, { ranks }) };
  } catch (error) {
    return { told: (error as Error).message };
  }
});
