// Uninitialised shared memory holds 0xFF bytes, NaN as a float, so that reading it shows.
//
// Dynamic shared memory is one buffer per OS thread with a red zone behind the bytes of the launch.
// Static shared variables are thread-local and live in one section; its bounds come from the
// linker, and the place of this thread's copy from the loader.

#include "shared.hpp"

#include <link.h>
#include <stdint.h>
#include <string.h>

#include "kernel.hpp"

extern "C" {
extern unsigned char __start_xl_shared[] __attribute__((visibility("hidden")));
extern unsigned char __stop_xl_shared[] __attribute__((visibility("hidden")));
}

namespace xl {
namespace {

constexpr size_t red_zone = 256;
constexpr unsigned char spoiled = 0xFF, guard = 0xA5;

// The loader allocates a thread's copy at its first use.
thread_local __attribute__((section("xl_shared"))) unsigned char touched[16];

alignas(1024) thread_local unsigned char buffer[largest_shared_bytes + red_zone];

struct Found {
  unsigned char* start;
};

int visit(dl_phdr_info* module, size_t, void* result) {
  const uintptr_t section = reinterpret_cast<uintptr_t>(__start_xl_shared) - module->dlpi_addr;
  for (int i = 0; i < module->dlpi_phnum; i++) {
    const auto& segment = module->dlpi_phdr[i];
    if (segment.p_type != PT_TLS || module->dlpi_tls_data == nullptr) continue;
    if (section < segment.p_vaddr || section >= segment.p_vaddr + segment.p_memsz) continue;
    unsigned char* copy = static_cast<unsigned char*>(module->dlpi_tls_data);
    unsigned char* start = copy + (section - segment.p_vaddr);
    const size_t bytes = static_cast<size_t>(__stop_xl_shared - __start_xl_shared);
    // Only this library's section holds this thread's marker.
    if (touched < start || touched >= start + bytes) continue;
    static_cast<Found*>(result)->start = start;
    return 1;
  }
  return 0;
}

}  // namespace

void Shared::find_static() {
  searched = true;
  Found found = {nullptr};
  *const_cast<volatile unsigned char*>(touched) = spoiled;
  if (dl_iterate_phdr(visit, &found) == 0) return;
  static_start = found.start;
  static_bytes = static_cast<size_t>(__stop_xl_shared - __start_xl_shared);
}

unsigned char* Shared::dynamic() { return buffer; }

void Shared::spoil(size_t dynamic_bytes, bool with_static) {
  if (!searched) find_static();
  memset(buffer, spoiled, dynamic_bytes);
  memset(buffer + dynamic_bytes, guard, red_zone);
  if (with_static && static_start != nullptr) memset(static_start, spoiled, static_bytes);
}

bool Shared::intact(size_t dynamic_bytes) {
  for (size_t i = 0; i < red_zone; i++)
    if (buffer[dynamic_bytes + i] != guard) return false;
  return true;
}

}  // namespace xl
