// What a thread reads on its way along the tokens: V channels of each input, asked for two groups
// of tokens ahead, through shared memory where a token's part is wide enough for a copy.
#pragma once
#include "async_copy.cuh"

namespace conv {

constexpr int block_threads = 256;
/// Tokens that are asked for at once, and the groups that have a place: cuda/conv.zig.
constexpr int together = 4, groups = 3;

template <typename S, int V, int inputs> struct Feed {
  static constexpr int bytes = V * (int)sizeof(S);
  static constexpr int place_bytes = block_threads * bytes;
  const S* from[inputs];    // token 0, the thread's channels
  uint64_t stride[inputs];  // of a token
  int end;                  // tokens from here on are not read
  unsigned char* mine = nullptr;
  int stage = 0;

  /// The thread's part of token base + n, after `next(base)`.
  DEVICE void get(int input, int n, float (&to)[V]) const {
    load_pack<V>((const S*)place(stage, input, n), to);
  }

  DEVICE void begin(int first, unsigned char* shared) {
    mine = shared + threadIdx.x * bytes;
#pragma unroll
    for (int i = 0; i < groups - 1; i++) ask(first + i * together, i);
    stage = groups - 1;
  }

  DEVICE void next(int base) {
    wait_copies<groups - 2>();
    ask(base + (groups - 1) * together, stage);
    stage = stage + 1 == groups ? 0 : stage + 1;
  }

  DEVICE unsigned char* place(int of_stage, int input, int n) const {
    return mine + ((of_stage * inputs + input) * together + n) * place_bytes;
  }

  DEVICE void ask(int base, int to) const {
#pragma unroll
    for (int n = 0; n < together; n++) {
      const int t = base + n;
      if (t >= end) continue;
#pragma unroll
      for (int i = 0; i < inputs; i++)
        copy_async<bytes>(place(to, i, n), from[i] + (uint64_t)t * stride[i]);
    }
    commit_copies();
  }
};

/// Single channels are narrower than any copy: the group waits in registers.
template <typename S, int inputs> struct Feed<S, 1, inputs> {
  const S* from[inputs];
  uint64_t stride[inputs];
  int end;
  float kept[inputs][together] = {};

  DEVICE void get(int input, int n, float (&to)[1]) const { to[0] = kept[input][n]; }
  DEVICE void begin(int, unsigned char*) {}
  DEVICE void next(int base) {
#pragma unroll
    for (int n = 0; n < together; n++)
#pragma unroll
      for (int i = 0; i < inputs; i++)
        if (base + n < end) kept[i][n] = to_float(from[i][(uint64_t)(base + n) * stride[i]]);
  }
};

}  // namespace conv
