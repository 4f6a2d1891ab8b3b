// Lines that fit the registers of their threads, streamed: a thread holds V values of a line, of
// the same columns and group throughout, and asks for its parts of the next lines ahead of time.
// Narrow lines belong to a part of a warp, wide ones to the block, which then meets once per sum.
//
// A multiprocessor has 16 (V = 16) or 24 (V = 8) resident warps, each with up to three lines of
// every input on their way: 32 to 72 KB, of the 30 to 40 that bandwidth times latency ask for.
#pragma once
#include "async_copy.cuh"
#include "norm_forward.cuh"

namespace norms {

/// Threads of a block at most, and so columns of a line: 2048 or 8192. cuda/norm_stream.zig
template <int V> constexpr int stream_threads = V == 8 ? 256 : 512;
template <int V> constexpr int stream_warps = stream_threads<V> / warp_size;
/// Lines of a thread whose parts have a place in shared memory.
template <int N> constexpr int stages = N == 1 ? 4 : N == 2 ? 3 : 2;

/// What a block passes through: rows block·…, all with the groups chunk·span … (chunk + 1)·span.
struct Course {
  Team team;
  uint32_t span, chunks, chunk, block;
  uint32_t group;         // of this thread's team
  uint32_t offset, step;  // of its rows: the block meets `step` rows at a time
};

template <int V> DEVICE Course course_of(int width, uint32_t groups) {
  int size = (int)blockDim.x;
  if (width <= warp_size * V) {
    for (size = 1; size * V < width;) size *= 2;
  }
  const int thread = threadIdx.x, count = (int)blockDim.x / size;
  const Team team = {size, thread % size, thread / size, count};
  // The count is a power of two: the largest one that divides the groups too.
  const uint32_t power = groups & (~groups + 1);
  const uint32_t span = power < (uint32_t)count ? power : (uint32_t)count;
  const uint32_t chunks = groups / span, chunk = blockIdx.x % chunks;
  return {team,
          span,
          chunks,
          chunk,
          blockIdx.x / chunks,
          chunk * span + (uint32_t)team.number % span,
          (uint32_t)team.number / span,
          (uint32_t)count / span};
}

/// First column of pack k of this thread.
template <int P> DEVICE int own_column(const Team& team, int k) {
  return (k * team.size + team.rank) * P;
}

/// This thread's places in dynamic shared memory for T inputs; no other thread touches them.
template <typename S, int T, int V> struct Ring {
  static constexpr int P = pack_width<S>, N = V / P, depth = stages<N>;
  unsigned char* mine;

  DEVICE explicit Ring(unsigned char* shared) : mine(shared + threadIdx.x * 16) {}

  DEVICE S* at(int stage, int input, int k) const {
    return (S*)(mine + ((stage * T + input) * N + k) * (int)blockDim.x * 16);
  }

  /// Asks for this thread's packs of one input; `from` is the first column of the line.
  DEVICE void ask(const Team& team, int width, int stage, int input, const S* from) const {
#pragma unroll
    for (int k = 0; k < N; k++) {
      const int c = own_column<P>(team, k);
      if (c < width) copy_async<16>(at(stage, input, k), from + c);
    }
  }
};

/// Sums of M numbers over the team, for each of its threads: a butterfly, then the warps in order.
/// Two scratches take turns, so that one barrier is enough; slots of absent warps hold zero.
template <int M, int warps>
DEVICE void line_sums(const Team& team, float (&x)[M], float* scratch, int& turn) {
#pragma unroll
  for (int step = warp_size / 2; step > 0; step /= 2) {
#pragma unroll
    for (int m = 0; m < M; m++) {
      const float other = __shfl_xor_sync(full_mask, x[m], step);
      if (step < team.size) x[m] += other;
    }
  }
  if (team.size <= warp_size) return;
  float* to = scratch + turn * M * warps;
#pragma unroll
  for (int m = 0; m < M; m++)
    if (threadIdx.x % warp_size == 0) to[m * warps + threadIdx.x / warp_size] = x[m];
  __syncthreads();
#pragma unroll
  for (int m = 0; m < M; m++) {
    x[m] = 0;
#pragma unroll
    for (int w = 0; w < warps; w += 4) {
      float part[4];
      load_pack<4>(to + m * warps + w, part);
#pragma unroll
      for (int i = 0; i < 4; i++) x[m] += part[i];
    }
  }
  turn ^= 1;
}

/// g and b of this thread's columns, for all its lines.
template <typename S, int V, typename Args>
DEVICE void load_parameters(const Args& a, const Course& course, float (&gain)[V],
                            float (&bias)[V]) {
  constexpr int P = pack_width<S>;
#pragma unroll
  for (int k = 0; k < V / P; k++) {
    const int c = own_column<P>(course.team, k);
    const uint64_t place = course.group * a.width + c;
    float g[P] = {}, b[P] = {};
    if (c < (int)a.width) {
      load_gain<P>(a.scale, place, (float)a.scale_offset, g);
      if constexpr (has_bias<Args>) load_bias<P>(a.bias, place, b);
    }
#pragma unroll
    for (int i = 0; i < P; i++) {
      gain[k * P + i] = g[i];
      bias[k * P + i] = b[i];
    }
  }
}

/// Rows low, low + step, … < high of a `Work`, whose inputs are asked for `depth − 1` steps ahead.
template <typename Work>
DEVICE void stream(Work& work, uint64_t low, uint64_t high, uint64_t step) {
  constexpr int depth = Work::depth;
#pragma unroll
  for (int i = 0; i < depth - 1; i++) {
    work.ask(low + (uint64_t)i * step, i);
    commit_copies();
  }
  int stage = 0;
  for (uint64_t base = low; base < high; base += step) {
    wait_copies<depth - 2>();
    work.ask(base + (uint64_t)(depth - 1) * step, stage == 0 ? depth - 1 : stage - 1);
    commit_copies();
    work.line(base, stage);
    stage = stage + 1 == depth ? 0 : stage + 1;
  }
}

/// The scratch of `line_sums`, empty.
template <int V> constexpr int scratch_size = 4 * stream_warps<V>;
template <int V> DEVICE void clear_scratch(float* scratch) {
  for (int i = threadIdx.x; i < scratch_size<V>; i += blockDim.x) scratch[i] = 0;
  __syncthreads();
}

}  // namespace norms
