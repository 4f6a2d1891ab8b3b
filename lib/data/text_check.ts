// Tells text from binary files before a model is trained on noise.

/** What is no text in a file. */
export interface TextCheck {
  /** Bytes that belong to no valid UTF-8 sequence. */
  readonly invalidBytes: number;
  readonly nulBytes: number;
  /** Offset of the first of either, or -1. */
  readonly firstBad: number;
}

/** Counts NULs and bytes outside of valid UTF-8 (RFC 3629: no overlong forms, no surrogates). */
export function checkText(bytes: Uint8Array): TextCheck {
  let invalidBytes = 0;
  let nulBytes = 0;
  let firstBad = -1;
  let at = 0;
  while (at < bytes.length) {
    const lead = bytes[at]!;
    const width = lead === 0 ? 0 : sequenceWidth(bytes, at, lead);
    if (width === 0) {
      if (firstBad < 0) firstBad = at;
      if (lead === 0) nulBytes++;
      else invalidBytes++;
      at++;
    } else {
      at += width;
    }
  }
  return { invalidBytes, nulBytes, firstBad };
}

/** Bytes of the well-formed sequence that starts here, or 0. */
function sequenceWidth(bytes: Uint8Array, at: number, lead: number): number {
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const width = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  const second = bytes[at + 1] ?? 0;
  const lowest = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  const highest = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  if (second < lowest || second > highest) return 0;
  for (let next = at + 2; next < at + width; next++) {
    if (((bytes[next] ?? 0) & 0xc0) !== 0x80) return 0;
  }
  return width;
}
