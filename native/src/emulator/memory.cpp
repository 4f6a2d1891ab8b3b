// Device memory is host memory, arranged so that mistakes show:
//
//   pages | data, 256-byte aligned | red zone of 256 bytes | page without access
//
// New memory holds 0xFF bytes (NaN as a float). The red zone is checked after every launch, at
// every wait and when the memory is freed; reads and writes further out, and all uses after the
// memory is freed, fault (faults.cpp).

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "state.hpp"

namespace xl {
namespace {

constexpr size_t page = 4096, red_zone = 256, alignment = 256;
constexpr unsigned char fresh = 0xFF, guard = 0xA5;

struct Allocation {
  unsigned char* mapping;
  size_t mapped;
  unsigned char* data;
  size_t bytes;
  bool on_device;
  bool overflowed;  // reported already
};

Allocation* allocations = nullptr;
size_t count = 0, capacity = 0;
unsigned long long used = 0;  // device bytes

size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

bool map(Allocation& made, size_t bytes) {
  // The bytes end a multiple of `alignment` before the last page: the guard follows closely.
  const size_t inside = rounded(rounded(bytes, alignment) + red_zone, page);
  void* mapping = mmap(nullptr, inside + page, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return false;
  made.mapping = static_cast<unsigned char*>(mapping);
  made.mapped = inside + page;
  made.data = made.mapping + inside - red_zone - rounded(bytes, alignment);
  made.bytes = bytes;
  made.overflowed = false;
  mprotect(made.mapping + inside, page, PROT_NONE);
  memset(made.mapping, fresh, inside);
  memset(made.data + bytes, guard, red_zone);
  return true;
}

bool make_room() {
  if (count < capacity) return true;
  const size_t wanted = capacity == 0 ? 256 : 2 * capacity;
  void* moved = realloc(allocations, wanted * sizeof(Allocation));
  if (moved == nullptr) return false;
  allocations = static_cast<Allocation*>(moved);
  capacity = wanted;
  return true;
}

Result allocate(void** to, size_t bytes, bool on_device) {
  if (to == nullptr || bytes == 0) return report(invalid_value, "an allocation of 0 bytes");
  const size_t cost = on_device ? rounded(bytes, alignment) : 0;
  if (on_device && (bytes > total_memory() || used + cost > total_memory()))
    return report(out_of_memory, "%zu bytes asked for, %llu of %llu in use", bytes, used,
                  total_memory());
  Allocation made = {};
  made.on_device = on_device;
  if (!make_room() || !map(made, bytes))
    return report(out_of_memory, "the host has no %zu bytes", bytes);
  allocations[count++] = made;
  used += cost;
  *to = made.data;
  return success;
}

Result check(Allocation& allocation, const char* after) {
  if (allocation.overflowed) return success;
  for (size_t i = 0; i < red_zone; i++) {
    if (allocation.data[allocation.bytes + i] == guard) continue;
    allocation.overflowed = true;
    return poison(illegal_address,
                  "%s: written %zu bytes past the end of an allocation of %zu bytes", after, i,
                  allocation.bytes);
  }
  return success;
}

void drop(size_t at) {
  if (allocations[at].on_device) used -= rounded(allocations[at].bytes, alignment);
  munmap(allocations[at].mapping, allocations[at].mapped);
  allocations[at] = allocations[--count];
}

Result release(const void* data, bool on_device, const char* call) {
  if (data == nullptr) return success;
  for (size_t i = 0; i < count; i++) {
    if (allocations[i].data != data || allocations[i].on_device != on_device) continue;
    const Result result = check(allocations[i], call);
    drop(i);
    return result;
  }
  return report(invalid_value, "%s: %p is not the start of an allocation", call, data);
}

}  // namespace

unsigned long long total_memory() { return setting("XL_EMULATOR_MEMORY", 2ull << 30); }

Result check_red_zones(const char* after) {
  for (size_t i = 0; i < count; i++)
    if (Result failure = check(allocations[i], after)) return failure;
  return success;
}

Result check_range(Pointer address, size_t bytes, const char* what) {
  for (size_t i = 0; i < count; i++) {
    const Pointer start = reinterpret_cast<Pointer>(allocations[i].data);
    if (!allocations[i].on_device || address < start) continue;
    const Pointer offset = address - start;
    if (offset <= allocations[i].bytes && bytes <= allocations[i].bytes - offset) return success;
  }
  return report(invalid_value, "%s: %zu bytes at %#llx are not inside of an allocation", what,
                bytes, address);
}

void release_everything() {
  while (count > 0) drop(count - 1);
}

XL_EXPORT Result cuMemAlloc_v2(Pointer* to, size_t bytes) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  if (Result failure = refuse_in_capture("cuMemAlloc")) return failure;
  return allocate(reinterpret_cast<void**>(to), bytes, true);
}

XL_EXPORT Result cuMemFree_v2(Pointer address) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  if (Result failure = refuse_in_capture("cuMemFree")) return failure;
  return release(reinterpret_cast<void*>(address), true, "cuMemFree");
}

XL_EXPORT Result cuMemAllocAsync(Pointer* to, size_t bytes, void* stream) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  if (Result failure = refuse_capturing(stream, "cuMemAllocAsync")) return failure;
  return allocate(reinterpret_cast<void**>(to), bytes, true);
}

XL_EXPORT Result cuMemFreeAsync(Pointer address, void* stream) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  if (Result failure = refuse_capturing(stream, "cuMemFreeAsync")) return failure;
  return release(reinterpret_cast<void*>(address), true, "cuMemFreeAsync");
}

XL_EXPORT Result cuMemHostAlloc(void** to, size_t bytes, unsigned) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  if (Result failure = refuse_in_capture("cuMemHostAlloc")) return failure;
  return allocate(to, bytes, false);
}

XL_EXPORT Result cuMemFreeHost(void* data) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  if (Result failure = refuse_in_capture("cuMemFreeHost")) return failure;
  return release(data, false, "cuMemFreeHost");
}

XL_EXPORT Result cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
  Call call(Needs::context);
  if (call.result != success) return call.result;
  *total_bytes = total_memory();
  *free_bytes = used < total_memory() ? total_memory() - used : 0;
  return success;
}

}  // namespace xl
