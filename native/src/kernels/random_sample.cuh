// Drawing a token from a row of logits, a block per row: the rules and the tokens of
// cpu/random_sample.zig.
//
//     e = exp((z − max z)/T);  order: e descending, id ascending
//     top-k: the first k;  top-p: of those, the shortest prefix with Σe ≥ top_p·(Σe of those)
//     min-p: e ≥ min_p;  token: ids ascending, the first with cumulative > u·total
//
// The CPU adds one after the other. Here sums over the vocabulary are made in parallel and differ
// in the last bits, so a decision counts only when it lies farther from its border than all
// rounding together; else the block adds one after the other too. Only what top-k or top-p may
// keep is sorted: a search over the exponents and four bits of the mantissas bounds it from below.
#pragma once
#include "index_order.cuh"
#include "random_exact.cuh"

constexpr int sampler_staged = 1024;
constexpr int sampler_listed = 2048;

struct Sampler {
  double* scores;    // [vocab], e
  int32_t* ids;      // [vocab up to a power of two]
  uint64_t vocab;
  double* staging;   // shared, `sampler_staged`
  int32_t* list;     // shared, `sampler_listed`
  int* counts;       // shared, 32
  uint64_t* crossed; // shared, 2
};

/// Ids with a score above `score`, or equal to it and not after `id`.
struct Cut {
  double score;
  int64_t id;
};

struct Kept {
  Cut cut;
  double least;
  DEVICE bool operator()(double score, uint64_t id) const {
    if (!(score > 0.0) || score < least) return false;
    return score > cut.score || (score == cut.score && (int64_t)id <= cut.id);
  }
};

/// The upper 16 bits of a score: its exponent and four bits of the mantissa.
DEVICE uint32_t edge_of(double score) { return (uint32_t)(bits_of(score) >> 48); }

struct OnOrAbove {
  uint32_t edge;
  DEVICE bool operator()(double score, uint64_t) const { return edge_of(score) >= edge; }
};

/// Scores rank by size, then by id; −1 is after all.
struct HigherScore {
  const double* scores;
  DEVICE bool operator()(int32_t a, int32_t b) const {
    if (a < 0 || b < 0) return a >= 0;
    const double x = scores[a], y = scores[b];
    return x == y ? a < b : x > y;
  }
};

/// Σe, or the number, of the scores on or above an edge; every thread gets it.
template <bool by_mass> DEVICE double measure(const Sampler& s, uint32_t edge) {
  double sum = 0.0;
  for (uint64_t i = threadIdx.x; i < s.vocab; i += blockDim.x) {
    const double score = s.scores[i];
    if (edge_of(score) >= edge) sum += by_mass ? score : 1.0;
  }
  return block_sum(sum, s.staging);
}

/// The highest edge on or above which the measure reaches `goal` > 0; 0 where none does.
template <bool by_mass> DEVICE uint32_t edge_for(const Sampler& s, double goal) {
  uint32_t edge = 0;
  for (int bit = 13; bit >= 0; bit--) {
    const uint32_t raised = edge | (1u << bit);
    if (measure<by_mass>(s, raised) >= goal) edge = raised;
  }
  return edge;
}

/// ids ← those that `keeps` keeps, ascending; returns their number.
template <typename P> DEVICE uint64_t gather(const Sampler& s, const P& keeps) {
  uint64_t found = 0;
  for (uint64_t low = 0; low < s.vocab; low += blockDim.x) {
    const uint64_t i = low + threadIdx.x;
    const bool yes = i < s.vocab && keeps(s.scores[i], i);
    int total;
    const int place = place_in_block(yes, s.counts, &total);
    if (yes) s.ids[found + place] = (int32_t)i;
    found += total;
  }
  __syncthreads();
  return found;
}

/// The first n ids in the order of rank; short lists in shared memory.
DEVICE const int32_t* ranked(const Sampler& s, uint64_t n) {
  uint64_t size = 1;
  while (size < n) size *= 2;
  int32_t* list = size <= sampler_listed ? s.list : s.ids;
  for (uint64_t i = threadIdx.x; i < size; i += blockDim.x) list[i] = i < n ? s.ids[i] : -1;
  sort_in_block(list, size, HigherScore{s.scores});
  return list;
}

/// staging ← scores of the next ids of `list` (null: all ids in order); returns how many.
DEVICE int stage(const Sampler& s, const int32_t* list, uint64_t low, uint64_t n) {
  const int count = (int)(n - low < sampler_staged ? n - low : sampler_staged);
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    s.staging[i] = s.scores[list ? (uint64_t)list[low + i] : low + i];
  __syncthreads();
  return count;
}

/// Σe in the order of the list; every thread gets it.
OUTLINED double ordered_total(const Sampler& s, const int32_t* list, uint64_t n) {
  double sum = 0.0;
  for (uint64_t low = 0; low < n; low += sampler_staged) {
    const int count = stage(s, list, low, n);
    if (threadIdx.x != 0) continue;
#pragma unroll 8
    for (int i = 0; i < count; i++) sum += s.staging[i];
  }
  __syncthreads();
  if (threadIdx.x == 0) s.staging[0] = sum;
  __syncthreads();
  sum = s.staging[0];
  __syncthreads();
  return sum;
}

/// Lengths of the shortest prefixes of the list that reach two goals; n where none does.
struct Crossed {
  uint64_t low, high;
};

/// `beyond`: the sum must be larger, not only as large.
template <bool beyond>
OUTLINED Crossed cross(const Sampler& s, const int32_t* list, uint64_t n, double low, double high) {
  double sum = 0.0;
  if (threadIdx.x == 0) s.crossed[0] = s.crossed[1] = 0;
  for (uint64_t at = 0; at < n; at += sampler_staged) {
    __syncthreads();
    // Read between two barriers: thread 0 writes it only after the second.
    const bool is_done = s.crossed[1] != 0;
    const int count = stage(s, list, at, n);
    if (is_done) break;
    if (threadIdx.x != 0) continue;
    for (int i = 0; i < count; i++) {
      sum += s.staging[i];
      if (s.crossed[0] == 0 && (beyond ? sum > low : sum >= low)) s.crossed[0] = at + i + 1;
      if (!(beyond ? sum > high : sum >= high)) continue;
      s.crossed[1] = at + i + 1;
      break;
    }
  }
  __syncthreads();
  const Crossed found = {s.crossed[0] ? s.crossed[0] : n, s.crossed[1] ? s.crossed[1] : n};
  __syncthreads();
  return found;
}

/// More than what all roundings of a sum of `terms` and its product with a share can amount to.
DEVICE double slack_of(uint64_t terms) { return 4.440892098500626e-16 * (double)(terms + 8); }

DEVICE Cut cut_of(const Sampler& s, const SampleSettings& settings) {
  Cut cut = {0.0, -1};
  const bool by_count = settings.top_k >= 1.0 && settings.top_k < (double)s.vocab;
  const bool by_mass = settings.top_p < 1.0;
  if (!by_count && !by_mass) return cut;
  const int32_t* list;
  uint64_t length;
  if (by_count) {
    length = (uint64_t)settings.top_k;
    list = ranked(s, gather(s, OnOrAbove{edge_for<false>(s, (double)length)}));
    if (by_mass) {
      const double goal = settings.top_p * ordered_total(s, list, length);
      length = cross<false>(s, list, length, goal, goal).high;
    }
  } else {
    const double goal = settings.top_p * measure<true>(s, 0), slack = slack_of(s.vocab);
    // The best score is 1: a goal of next to nothing keeps it.
    const double wanted = fmax(goal * (1.0 + 4.0 * slack), 1e-300);
    const uint64_t n = gather(s, OnOrAbove{edge_for<true>(s, wanted)});
    list = ranked(s, n);
    Crossed found = cross<false>(s, list, n, goal * (1.0 - slack), goal * (1.0 + slack));
    if (found.low != found.high) {
      const double exact = settings.top_p * ordered_total(s, nullptr, s.vocab);
      found = cross<false>(s, list, n, exact, exact);
    }
    length = found.high;
  }
  cut.id = list[length - 1];
  cut.score = s.scores[cut.id];
  __syncthreads();
  return cut;
}

/// The drawn one of n ids by parallel sums; −1 where the border is too near.
DEVICE int32_t draw_in_parallel(const Sampler& s, uint64_t n, double u) {
  const uint64_t stretch = (n + blockDim.x - 1) / blockDim.x;
  const uint64_t low = threadIdx.x * stretch, high = low + stretch < n ? low + stretch : n;
  double sum = 0.0;
  for (uint64_t i = low; i < high; i++) sum += s.scores[s.ids[i]];
  __syncthreads();
  s.staging[threadIdx.x] = sum;
  if (threadIdx.x == 0) s.crossed[0] = n;
  __syncthreads();
  double before = 0.0, total = 0.0;
  for (int k = 0; k < (int)blockDim.x; k++) {
    if (k == (int)threadIdx.x) before = total;
    total += s.staging[k];
  }
  const double goal = u * total, slack = slack_of(n) * total;
  for (uint64_t i = low; i < high; i++) {
    const double after = before + s.scores[s.ids[i]];
    if (goal - before > slack && after - goal > slack) s.crossed[0] = i;
    before = after;
  }
  __syncthreads();
  const uint64_t found = s.crossed[0];
  __syncthreads();
  return found < n ? s.ids[found] : -1;
}

/// u = ((x₀>>5)·2²⁶ + (x₁>>6))·2⁻⁵³, serving.md §7.
DEVICE double uniform_of(const SampleDraw& d) {
  const Words x = philox(d.position, d.choice, d.prompt, d.spare, d.key_low, d.key_high);
  const uint64_t bits = ((uint64_t)(x.at[0] >> 5) << 26) + (x.at[1] >> 6);
  return (double)bits * 1.1102230246251565404e-16;
}

template <typename S>
DEVICE int32_t draw(const Sampler& s, const S* logits, int32_t best, const SampleSettings& settings,
                    const SampleDraw& place) {
  const Real top = real(to_float(logits[best])), temperature = real(settings.temperature);
  for (uint64_t i = threadIdx.x; i < s.vocab; i += blockDim.x)
    s.scores[i] = exact_exp((real(to_float(logits[i])) - top) / temperature);
  __syncthreads();
  const Kept kept = {cut_of(s, settings), settings.min_p > 0.0 ? settings.min_p : 0.0};
  const uint64_t n = gather(s, kept);
  if (n == 0) return best;
  const double u = uniform_of(place);
  if (n > sampler_listed) {
    const int32_t drawn = draw_in_parallel(s, n, u);
    if (drawn >= 0) return drawn;
  }
  const double goal = u * ordered_total(s, s.ids, n);
  return s.ids[cross<true>(s, s.ids, n, goal, goal).high - 1];
}

template <typename S> DEVICE void categorical_sample(const SamplePlan& a) {
  __shared__ double staging[sampler_staged];
  __shared__ int32_t list[sampler_listed];
  __shared__ Key keys[warp_size];
  __shared__ int counts[warp_size];
  __shared__ uint64_t crossed[2];
  const uint64_t vocab = a.call.vocab;
  const Sampler s = {static_cast<double*>(a.scores) + blockIdx.x * vocab,
                     static_cast<int32_t*>(a.ids) + blockIdx.x * a.padded,
                     vocab,
                     staging,
                     list,
                     counts,
                     crossed};
  for (uint64_t row = blockIdx.x; row < a.call.rows; row += gridDim.x) {
    const S* logits = static_cast<const S*>(a.call.logits) + row * vocab;
    const SampleSettings settings = static_cast<const SampleSettings*>(a.call.settings)[row];
    const Key most = most_below(logits, vocab, no_limit, threadIdx.x, blockDim.x);
    int32_t token = (int32_t)index_of(block_most(most, keys));
    const float top = to_float(logits[token]);
    // Without a finite maximum there is no softmax: +Inf takes all, −Inf and NaN leave no choice.
    if (settings.temperature > 0.0 && top - top == 0.f)
      token = draw(s, logits, token, settings, static_cast<const SampleDraw*>(a.call.draws)[row]);
    if (threadIdx.x == 0) static_cast<int32_t*>(a.call.tokens)[row] = token;
    __syncthreads();
  }
}
