// Lists of hosts as Slurm writes them: `n[01-03,07]`, `a1,b[2-3]-ib`, `r[0-1]n[0-3]`.

import { LaunchError } from "./errors.ts";

const mostHosts = 65_536;

/**
 * Every host of a node list, in order; zeros in front of numbers are kept, later brackets count
 * fastest. LaunchError for a list that is not well formed, or of more than 65,536 hosts.
 */
export function expandNodeList(list: string): string[] {
  const hosts: string[] = [];
  for (const group of splitGroups(list)) {
    hosts.push(...expandGroup(group, list, mostHosts - hosts.length));
  }
  if (hosts.length === 0) throw malformed(list, "it names no host");
  return hosts;
}

/** Splits at the commas outside of brackets. */
function splitGroups(list: string): string[] {
  const groups: string[] = [];
  let depth = 0;
  let start = 0;
  for (let at = 0; at <= list.length; at++) {
    const character = list[at];
    if (character === "[") depth++;
    if (character === "]") depth--;
    if (depth < 0 || depth > 1) throw malformed(list, "its brackets do not match");
    if (character !== undefined && (character !== "," || depth > 0)) continue;
    groups.push(list.slice(start, at).trim());
    start = at + 1;
  }
  if (depth !== 0) throw malformed(list, "its brackets do not match");
  if (groups.some((group) => group === "")) throw malformed(list, "a host name is empty");
  return groups;
}

/** The hosts of one group: the product of its brackets. */
function expandGroup(group: string, list: string, room: number): string[] {
  const parts = group.split(/[[\]]/);
  let hosts = [""];
  for (const [index, part] of parts.entries()) {
    const choices = index % 2 === 0 ? [part] : expandBracket(part, list, room);
    if (hosts.length * choices.length > room) throw tooMany(list);
    hosts = hosts.flatMap((host) => choices.map((choice) => host + choice));
  }
  return hosts;
}

function expandBracket(text: string, list: string, room: number): string[] {
  const numbers: string[] = [];
  for (const item of text.split(",")) {
    const [, first, last] = /^(\d+)(?:-(\d+))?$/.exec(item.trim()) ?? [];
    if (first === undefined) throw malformed(list, `"${item}" is neither a number nor a range`);
    const from = Number(first);
    const to = Number(last ?? first);
    if (to < from) throw malformed(list, `the range ${item} runs backwards`);
    if (to - from >= room - numbers.length) throw tooMany(list);
    for (let value = from; value <= to; value++) {
      numbers.push(String(value).padStart(first.length, "0"));
    }
  }
  return numbers;
}

function malformed(list: string, why: string): LaunchError {
  const shown = list.length > 80 ? `${list.slice(0, 77)}...` : list;
  return new LaunchError(`node list "${shown}": ${why}; expected a form like n[01-03,07],m1`);
}

function tooMany(list: string): LaunchError {
  return malformed(list, `it names more than ${mostHosts} hosts`);
}
