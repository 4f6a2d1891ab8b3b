// What check programs share: random numbers, bf16 on the host, errors against a reference, and which
// cases are wanted.
#pragma once
#include <vector>

static int failures = 0;

static double normal(uint64_t seed) {
  uint64_t x = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
  double sum = -6;
  for (int e = 0; e < 12; e++) {
    x ^= x >> 31, x *= 0xbf58476d1ce4e5b9ull, x ^= x >> 29, x += 0x94d049bb133111ebull;
    sum += (x >> 11) * 0x1p-53;
  }
  return sum;
}
static uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static double of_bf16(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}
template <typename T> static std::vector<T> fetch(const T* from, size_t count) {
  std::vector<T> x(count);
  from_device(x.data(), from, count * sizeof(T));
  return x;
}

// Relative L2 error of one tensor; every element counts, NaN fails.
struct Error {
  const char* name;
  double bar, difference = 0, square = 0;
  void add(double got, double want) {
    difference += (got - want) * (got - want);
    square += want * want;
  }
  void report(const char* shape, bool quiet) const {
    const double e = square > 0 ? sqrt(difference / square) : sqrt(difference);
    const bool good = e <= bar;
    if (!good) failures++;
    if (!good || !quiet) printf("  %-22s %-8s %.2e %s\n", shape, name, e, good ? "" : "WRONG");
  }
};

// Arguments: words that the names of the wanted cases contain; none: all.
static bool wanted(const char* name, int count, char** words) {
  for (int w = 1; w < count; w++)
    if (strstr(name, words[w])) return true;
  return count == 1;
}
static int verdict() {
  printf("%d wrong\n", failures);
  return failures > 0;
}
