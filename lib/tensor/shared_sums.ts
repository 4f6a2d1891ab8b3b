// Sums that the ranks of a mesh share. Runs that add in different orders differ by the rounding of
// everything behind the sum, in f32 by more than a gradient that nearly cancels can bear: so a lone
// process adds as ranks do, in a few runs whose sums are added in a balanced tree.

/** Into how many runs a sum that ranks share is cut at most (native/src/args/matmul.zig). */
const mostParts = 8;

/**
 * In how many runs each of `ranks` adds its part of a sum, so that their total has the bits of one
 * process on a CPU (mesh.md §15); 0, in the order of a lone process, where runs do not divide.
 */
export function partsOf(ranks: number): number {
  return mostParts % ranks === 0 ? mostParts / ranks : 0;
}

/** Sums of a linear layer that ranks share, by the runs in which they are added; 0: not shared. */
export interface SharedSums {
  /** The sum over K, of results. */
  readonly inputs?: number;
  /** What K is made of, where ranks have a part of each of several segments: their widths here. */
  readonly segments?: readonly number[];
  /** The sum over all N, of the gradient of x. */
  readonly outputs?: number;
}
