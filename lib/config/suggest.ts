// Spelling suggestions for unknown keys, values and file names.

/** Number of single-character edits (insert, delete, replace, swap) between two words. */
export function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      row[j] = Math.min(previous[j]! + 1, row[j - 1]! + 1, previous[j - 1]! + (same ? 0 : 1));
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) row[j] = Math.min(row[j]!, before[j - 2]! + 1);
    }
    before = previous;
    previous = row;
  }
  return previous[b.length]!;
}

/** The candidate nearest to `word` ignoring case and separators, or undefined when none is near. */
export function closest(word: string, candidates: Iterable<string>): string | undefined {
  const wanted = plain(word);
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(wanted.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(wanted, plain(candidate));
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** `; did you mean "x"?`, or else a list of what exists, or nothing when there is nothing. */
export function suggestion(word: string, candidates: Iterable<string>): string {
  const known = [...candidates];
  const near = closest(word, known);
  if (near !== undefined) return `; did you mean "${near}"?`;
  if (known.length === 0) return "";
  const shown = known.slice(0, 12).join(", ");
  return `; known: ${shown}${known.length > 12 ? ", ..." : ""}`;
}

function plain(word: string): string {
  return word.toLowerCase().replaceAll(/[-_ .]/g, "");
}
