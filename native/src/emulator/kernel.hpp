// A kernel as the emulator knows it. KERNEL (emulator.hpp) makes one per kernel, before main.

#pragma once

#include <stddef.h>

namespace xl {

struct Kernel {
  const char* name;
  void (*function)(const void* arguments);
  unsigned max_threads;  // what __launch_bounds__ promises
  size_t argument_bytes;
  int max_shared_bytes;  // dynamic; raised by cuKernelSetAttribute
  Kernel* next;
};

void add_kernel(Kernel* kernel);
Kernel* find_kernel(const char* name);
bool is_kernel(const void* handle);

constexpr int default_shared_bytes = 48 << 10;
constexpr int largest_shared_bytes = 227 << 10;

}  // namespace xl
