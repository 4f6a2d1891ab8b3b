/** Shapes do not fit an operation; the text names them all. */
export class ShapeError extends RangeError {
  override readonly name = "ShapeError";
}

/** A dtype an operation cannot take. */
export class DTypeError extends TypeError {
  override readonly name = "DTypeError";
}

/** A tensor that was disposed of, or whose scope has ended, is used. */
export class DisposedError extends ReferenceError {
  override readonly name = "DisposedError";
}

/** Automatic differentiation was asked for something it cannot do. */
export class GradientError extends Error {
  override readonly name = "GradientError";
}

/** `[2, 3]` for messages. */
export function shown(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}
