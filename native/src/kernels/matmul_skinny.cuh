// y [m, n] = alpha·x [m, k]·Wᵀ (+ …) for at most 8 rows of x: the products of decoding.
// W [n, k], k contiguous, f32 or bf16; x of any strides, f32 or bf16; sums in f32.
//
// Floor: the bytes of W, read once. A warp takes four rows of W and every `split`-th stretch of k:
// each lane has up to 16 loads of 16 bytes under way, those of the next stretch while it multiplies
// the last one. x lies in shared memory as f32, so one read of it serves four rows.
//
// A lane adds its products in the order of k, the lanes of a warp are added by a butterfly, the
// warps of a row in their order. That order depends on n, k and the GPU, not on m: a sequence
// decodes to the same bits alone and beside seven others. Equals matmul.cu, cpu/matmul.zig.
#pragma once
#include "matmul_element.cuh"

namespace skinny {

constexpr int threads = 256, warps = threads / warp_size;
constexpr int rows = 4;  // of W for a warp; cuda/matmul.zig: skinny_rows

/// W of storage S, up to M rows of x.
template <typename S, int M> struct Shape {
  static constexpr int width = pack_width<S>;        // elements of a load
  static constexpr int stretch = width * warp_size;  // elements of a row for a warp at once
  static constexpr int depth = M <= 2 ? 2 : 1;       // stretches under way; registers end it
  static constexpr int quads = width / 4;
};

/// Where element k of a row of x lies: the four-element parts of a load side by side for all
/// lanes, so that no two lanes of a read of 16 bytes meet in a bank.
template <typename S> DEVICE int place(int k) {
  constexpr int width = pack_width<S>, stretch = width * warp_size;
  return k / stretch * stretch + k % width / 4 * (4 * warp_size) + k % stretch / width * 4 + k % 4;
}

/// 16 bytes of a row as they come: unpacked early they would fill the registers.
using Words = Pack<uint32_t, 4>;

DEVICE float element(const Words& words, int e, const float*) {
  return __uint_as_float(words.at[e]);
}
DEVICE float element(const Words& words, int e, const bf16*) {
  return __uint_as_float(e % 2 ? words.at[e / 2] & 0xffff0000u : words.at[e / 2] << 16);
}

DEVICE uint32_t bits_of(float x) { return __float_as_uint(x); }
DEVICE uint32_t bits_of(bf16 x) { return x.bits; }

/// Loads of one lane: `depth` stretches of `rows` rows.
template <typename S, int M> struct Loads {
  Words at[Shape<S, M>::depth][rows];
};

/// The rows of W of one warp; those behind the last repeat it, and are not stored.
template <typename S> struct Rows {
  const S* at[rows];
  uint64_t k;
};

template <typename S> DEVICE Rows<S> rows_of(const Matmul& a, uint64_t first) {
  Rows<S> w;
#pragma unroll
  for (int j = 0; j < rows; j++) {
    const uint64_t row = first + j < a.n ? first + j : a.n - 1;
    w.at[j] = static_cast<const S*>(a.b) + row * a.b_column_stride;
  }
  w.k = a.k;
  return w;
}

/// 16 bytes from column k, zero from `end` on. Rows that do not lie on 16 bytes go by elements.
template <bool aligned, typename S>
DEVICE Words load_words(const S* row, uint64_t k, uint64_t end) {
  Words words = {};
  if (k >= end) return words;
  if (aligned) return *reinterpret_cast<const Words*>(row + k);
  constexpr int each = 4 / sizeof(S);
#pragma unroll
  for (int e = 0; e < pack_width<S>; e++)
    if (k + e < end) words.at[e / each] |= bits_of(row[k + e]) << (e % each * 16);
  return words;
}

template <bool aligned, typename S, int M>
DEVICE void fetch(Loads<S, M>& to, const Rows<S>& w, uint64_t k, uint64_t apart) {
#pragma unroll
  for (int d = 0; d < Shape<S, M>::depth; d++, k += apart)
#pragma unroll
    for (int j = 0; j < rows; j++) to.at[d][j] = load_words<aligned>(w.at[j], k, w.k);
}

/// x [M, chunk] ← columns [k0, k0 + chunk) of x, zero behind its last row and column.
template <typename S, typename X, int M>
DEVICE void stage(const SkinnyPlan& p, float* x, uint64_t k0) {
  const Matmul& a = p.call;
  constexpr int width = pack_width<X>;
  const uint64_t left = a.k - k0;
  const X* const from = static_cast<const X*>(a.a) + k0 * a.a_column_stride;
  const int chunk = (int)p.chunk, full = (int)(left < p.chunk ? left : p.chunk);
#pragma unroll 1
  for (int r = 0; r < M; r++) {
    const X* const row = from + r * a.a_row_stride;
    float* const to = x + r * chunk;
    const bool live = r < (int)a.m;
    const bool vectors = live && a.a_column_stride == 1 && is_aligned(row);
    const int packs = vectors ? full / width * width : 0;
    for (int k = (int)threadIdx.x * width; k < packs; k += threads * width) {
      float values[width];
      load_pack(row + k, values);
#pragma unroll
      for (int e = 0; e < width; e += 4) {
        float four[4] = {values[e], values[e + 1], values[e + 2], values[e + 3]};
        store_pack(to + place<S>(k + e), four);
      }
    }
    for (int k = packs + (int)threadIdx.x; k < chunk; k += threads)
      to[place<S>(k)] = live && k < full ? to_float(row[k * a.a_column_stride]) : 0.f;
  }
}

/// sums += x · loads; `k` is the place of the first stretch in the chunk.
template <typename S, int M>
DEVICE void multiply(float (&sums)[M][rows], const Loads<S, M>& w, const float* x, int chunk,
                     int k, int apart, int end) {
  using Size = Shape<S, M>;
#pragma unroll
  for (int d = 0; d < Size::depth; d++) {
    if (k + d * apart >= end) return;
    const float* const at = x + k + d * apart + threadIdx.x % warp_size * 4;
#pragma unroll
    for (int quad = 0; quad < Size::quads; quad++)
#pragma unroll
      for (int r = 0; r < M; r++) {
        float four[4];
        load_pack(at + r * chunk + quad * 4 * warp_size, four);
#pragma unroll
        for (int j = 0; j < rows; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const float weight = element(w.at[d][j], quad * 4 + e, (const S*)nullptr);
            sums[r][j] = fmaf(weight, four[e], sums[r][j]);
          }
      }
  }
}

/// Adds lanes, then the warps that share the rows, and stores.
template <int M>
DEVICE void finish(const SkinnyPlan& p, float (&sums)[M][rows], float (*partial)[M * rows],
                   uint64_t first) {
  const Matmul& a = p.call;
  const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size;
#pragma unroll
  for (int r = 0; r < M; r++)
#pragma unroll
    for (int j = 0; j < rows; j++) {
      const float sum = warp_sum(sums[r][j]);
      if (lane == 0) partial[warp][r * rows + j] = sum;
    }
  __syncthreads();
  const uint64_t row = lane / rows, column = first + lane % rows;
  if (warp % p.split != 0 || lane >= M * rows || row >= a.m || column >= a.n) return;
  float sum = partial[warp][lane];
  for (uint32_t part = 1; part < p.split; part++) sum += partial[warp + part][lane];
  epilogue(a, 0, row, column, sum);
}

/// The first bytes of this warp's rows, before the kernel that makes x has ended. Warps that share
/// rows ask for pieces of them one behind the other.
template <typename S> DEVICE void ask_ahead(const Rows<S>& w, uint32_t part) {
  constexpr uint64_t piece = 2048 / sizeof(S);  // 64 KB for a block
  const int lane = threadIdx.x % warp_size;
  const uint64_t from = part * piece;
  if (lane >= rows || from >= w.k) return;
  const uint64_t count = w.k - from < piece ? w.k - from : piece;
#pragma unroll
  for (int j = 0; j < rows; j++)
    if (lane == j) ask(w.at[j] + from, (uint32_t)(count * sizeof(S)));
}

template <typename S, int M, bool aligned> DEVICE void product(const SkinnyPlan& p) {
  using Size = Shape<S, M>;
  SHARED(float, x);
  __shared__ float partial[warps][M * rows];
  const Matmul& a = p.call;
  const int warp = threadIdx.x / warp_size, lane = threadIdx.x % warp_size;
  const uint64_t first = ((uint64_t)blockIdx.x * warps + warp) / p.split * rows;
  const int apart = (int)p.split * Size::stretch, step = apart * Size::depth;
  const int start = warp % (int)p.split * Size::stretch, own = lane * Size::width;
  const Rows<S> w = rows_of<S>(a, first);
  if (aligned) ask_ahead(w, warp % p.split);
  follow();
  float sums[M][rows] = {};
  Loads<S, M> now, next;
  // Before x is there: W does not wait for it.
  fetch<aligned>(now, w, start + own, apart);
  for (uint64_t k0 = 0; k0 < a.k; k0 += p.chunk) {
    if (k0) __syncthreads();
    if (a.a_dtype == DType_bf16) stage<S, bf16, M>(p, x, k0);
    else stage<S, float, M>(p, x, k0);
    __syncthreads();
    const int end = (int)(a.k - k0 < p.chunk ? a.k - k0 : p.chunk);
    for (int k = start; k < end; k += step) {
      fetch<aligned>(next, w, k0 + k + step + own, apart);
      multiply(sums, now, x, (int)p.chunk, k, apart, end);
      now = next;
    }
  }
  finish(p, sums, partial, first);
}

template <typename S, int M> DEVICE void product(const SkinnyPlan& p) {
  if (p.aligned) product<S, M, true>(p);
  else product<S, M, false>(p);
}

}  // namespace skinny

#define SKINNY(M)                                                                    \
  KERNEL_AHEAD(256, matmul_skinny_##M##_f32, SkinnyPlan) { skinny::product<float, M>(a); } \
  KERNEL_AHEAD(256, matmul_skinny_##M##_bf16, SkinnyPlan) { skinny::product<bf16, M>(a); }
