// Reductions of args/elementwise.zig: y[kept] = Σ, mean, max, min, Σx² or logsumexp of x over the
// reduced dims, and sums of squares of many tensors.
//
// Three ways, chosen by shapes and strides alone (cuda/reduce.zig):
//     lines   a warp or a block per output and piece, neighbours along the reduced dim
//     columns a thread per output and piece: the last kept dim is contiguous, or few terms
//     join    adds the pieces of an output in order, where pieces keep the chip busy
// Floor: x once. Terms enter in f32 packs, packs are added in f64. Equal to cpu/reduce*.zig and
// reference/elementwise.zig.
#include "ordered_sum.cuh"
#include "reduce_partial.cuh"
#include "walk.cuh"

/// Terms [low, high) of one output, shared by `threads` threads of which this is `thread`.
template <typename S, Reduction op>
DEVICE Partial line_part(const ReducePlan& a, const S* x, uint64_t low, uint64_t high, int thread,
                         int threads) {
  Partial sum = nothing<op>();
  uint64_t i = low + thread;
  if (a.reduced.pack > 1) {
    // Pieces begin at multiples of a pack.
    constexpr int n = pack_width<S>;
    const uint64_t packs = (high - low) / n;
    for (uint64_t pack = thread; pack < packs; pack += threads) {
      float values[n];
      load_pack(x + low + pack * n, values);
      take<op>(sum, values);
    }
    i += packs * n;
  }
#pragma unroll 1
  for (; i < high; i += threads) {
    const float value[1] = {to_float(x[locate_one(a.reduced, i)])};
    take<op>(sum, value);
  }
  return sum;
}

template <typename S>
DEVICE void leave(const ReducePlan& a, uint64_t output, uint64_t piece, Partial sum) {
  if (a.pieces == 1) return finish<S>(a, output, sum);
  static_cast<Partial*>(a.parts)[piece * a.outputs + output] = sum;
}

/// Team = warp. Outputs × pieces are walked by the grid.
template <typename S, Reduction op> DEVICE void lines_of_warps(const ReducePlan& a) {
  const int lane = threadIdx.x % warp_size;
  const uint64_t teams = grid_threads() / warp_size;
  for (uint64_t i = grid_thread() / warp_size; i < a.outputs * a.pieces; i += teams) {
    const uint64_t output = quotient(i, a.pieces), piece = i - output * a.pieces;
    const uint64_t low = piece * a.piece, end = low + a.piece;
    const S* x = static_cast<const S*>(a.x) + locate_one(a.kept, output);
    const Partial part =
        line_part<S, op>(a, x, low, end < a.terms ? end : a.terms, lane, warp_size);
    const Partial sum = join_warp<op>(part);
    if (lane == 0) leave<S>(a, output, piece, sum);
  }
}

/// Team = block of 256.
template <typename S, Reduction op> DEVICE void lines_of_blocks(const ReducePlan& a) {
  __shared__ Partial warps[8];
  const int warp = threadIdx.x / warp_size;
  for (uint64_t i = blockIdx.x; i < a.outputs * a.pieces; i += gridDim.x) {
    const uint64_t output = quotient(i, a.pieces), piece = i - output * a.pieces;
    const uint64_t low = piece * a.piece, end = low + a.piece;
    const S* x = static_cast<const S*>(a.x) + locate_one(a.kept, output);
    Partial sum = line_part<S, op>(a, x, low, end < a.terms ? end : a.terms, threadIdx.x,
                                   blockDim.x);
    sum = join_warp<op>(sum);
    if (threadIdx.x % warp_size == 0) warps[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int k = 1; k < 8; k++) sum = join<op>(sum, warps[k]);
      leave<S>(a, output, piece, sum);
    }
    __syncthreads();
  }
}

template <typename S, Reduction op> DEVICE void columns(const ReducePlan& a) {
  const S* x = static_cast<const S*>(a.x);
  for (uint64_t i = grid_thread(); i < a.outputs * a.pieces; i += grid_threads()) {
    const uint64_t piece = quotient(i, a.outputs), output = i - piece * a.outputs;
    const uint64_t low = piece * a.piece;
    const uint64_t high = low + a.piece < a.terms ? low + a.piece : a.terms;
    const S* column = x + locate_one(a.kept, output);
    Partial sum = nothing<op>();
    uint64_t term = low;
    // Eight loads at a time are under way.
    if (a.reduced.rank == 1) {
      const uint64_t stride = a.reduced.strides[0];
      for (; term + 8 <= high; term += 8) {
        float values[8];
#pragma unroll
        for (int k = 0; k < 8; k++) values[k] = to_float(column[(term + k) * stride]);
        take<op>(sum, values);
      }
    }
#pragma unroll 1
    for (; term < high; term++) {
      const float value[1] = {to_float(column[locate_one(a.reduced, term)])};
      take<op>(sum, value);
    }
    leave<S>(a, output, piece, sum);
  }
}

/// 32 outputs per block and step; eight threads take a run of the pieces each.
template <typename S, Reduction op> DEVICE void join_pieces(const ReducePlan& a) {
  __shared__ Partial runs[8][warp_size];
  const int lane = threadIdx.x % warp_size, run = threadIdx.x / warp_size;
  const uint64_t per_run = (a.pieces + 7) / 8, low = run * per_run;
  const uint64_t high = low + per_run < a.pieces ? low + per_run : a.pieces;
  const Partial* parts = static_cast<const Partial*>(a.parts);
  for (uint64_t first = blockIdx.x * (uint64_t)warp_size; first < a.outputs;
       first += gridDim.x * (uint64_t)warp_size) {
    const uint64_t output = first + lane;
    Partial sum = nothing<op>();
    if (output < a.outputs) {
#pragma unroll 2
      for (uint64_t piece = low; piece < high; piece++)
        sum = join<op>(sum, parts[piece * a.outputs + output]);
    }
    runs[run][lane] = sum;
    __syncthreads();
    if (run == 0 && output < a.outputs) {
      for (int k = 1; k < 8; k++) sum = join<op>(sum, runs[k][lane]);
      finish<S>(a, output, sum);
    }
    __syncthreads();
  }
}

// The mean is a sum until it is written.
#define DISPATCH(body, S) \
  switch (a.op) { \
    case Reduction_sum: \
    case Reduction_mean: return body<S, Reduction_sum>(a); \
    case Reduction_max: return body<S, Reduction_max>(a); \
    case Reduction_min: return body<S, Reduction_min>(a); \
    case Reduction_sum_squares: return body<S, Reduction_sum_squares>(a); \
    case Reduction_logsumexp: return body<S, Reduction_logsumexp>(a); \
  }

KERNEL(256, reduce_warps_f32, ReducePlan) { DISPATCH(lines_of_warps, float) }
KERNEL(256, reduce_warps_bf16, ReducePlan) { DISPATCH(lines_of_warps, bf16) }
KERNEL(256, reduce_blocks_f32, ReducePlan) { DISPATCH(lines_of_blocks, float) }
KERNEL(256, reduce_blocks_bf16, ReducePlan) { DISPATCH(lines_of_blocks, bf16) }
KERNEL(256, reduce_columns_f32, ReducePlan) { DISPATCH(columns, float) }
KERNEL(256, reduce_columns_bf16, ReducePlan) { DISPATCH(columns, bf16) }
KERNEL(256, reduce_join_f32, ReducePlan) { DISPATCH(join_pieces, float) }
KERNEL(256, reduce_join_bf16, ReducePlan) { DISPATCH(join_pieces, bf16) }

constexpr int squares_block = 4096;

/// Tensor of block `i` of the launch: the last whose first block is not after it. Empty tensors
/// share their first block with the next one, which comes later and wins.
DEVICE uint64_t tensor_of(const SquaresPlan& a, uint64_t i) {
  uint64_t low = 0, high = a.tensors;
  while (high - low > 1) {
    const uint64_t middle = (low + high) / 2;
    if (a.first[middle] <= i) low = middle;
    else high = middle;
  }
  return low;
}

/// parts[i] ← {Σx², elements that are Inf or NaN} of 4096 elements of one tensor.
template <typename S> DEVICE void squares_parts(const SquaresPlan& a) {
  __shared__ double scratch[warp_size];
  Twice* parts = static_cast<Twice*>(a.parts);
  for (uint64_t i = blockIdx.x; i < a.blocks; i += gridDim.x) {
    const uint64_t tensor = tensor_of(a, i), low = (i - a.first[tensor]) * squares_block;
    const uint64_t left = a.counts[tensor] - low;
    const int count = (int)(left < squares_block ? left : squares_block);
    const S* x = static_cast<const S*>(a.data[tensor]) + low;
    constexpr int n = pack_width<S>;
    const int packs = is_aligned(x) ? count / n : 0;
    double squares = 0.0;
    int broken = 0;
    for (int pack = threadIdx.x; pack < packs; pack += blockDim.x) {
      float values[n];
      load_pack(x + pack * n, values);
#pragma unroll
      for (int k = 0; k < n; k++) {
        squares += (double)values[k] * values[k];
        broken += !(values[k] - values[k] == 0.f);
      }
    }
    for (int k = packs * n + threadIdx.x; k < count; k += blockDim.x) {
      const float value = to_float(x[k]);
      squares += (double)value * value;
      broken += !(value - value == 0.f);
    }
    squares = block_sum(squares, scratch);
    const double all_broken = block_sum((double)broken, scratch);
    if (threadIdx.x == 0) parts[i] = {squares, all_broken};
  }
}

KERNEL(256, squares_parts_f32, SquaresPlan) { squares_parts<float>(a); }
KERNEL(256, squares_parts_bf16, SquaresPlan) { squares_parts<bf16>(a); }

/// out[k] ← sum of tensor k's blocks, in block order. One block per tensor.
KERNEL(256, squares_tensors, SquaresPlan) {
  __shared__ Twice staging[staged_rows];
  for (uint64_t k = blockIdx.x; k < a.tensors; k += gridDim.x) {
    const uint64_t end = k + 1 < a.tensors ? a.first[k + 1] : a.blocks;
    const Twice* parts = static_cast<const Twice*>(a.parts) + a.first[k];
    const Twice sum = ordered_sum(parts, end - a.first[k], staging);
    if (threadIdx.x == 0) static_cast<Twice*>(a.out)[k] = sum;
  }
}

/// out[tensors] ← Σ out[0 … tensors), in tensor order.
KERNEL(256, squares_total, GlobalSumSquares) {
  __shared__ Twice staging[staged_rows];
  Twice* out = static_cast<Twice*>(a.out);
  const Twice sum = ordered_sum(out, a.tensors, staging);
  if (threadIdx.x == 0) out[a.tensors] = sum;
}
