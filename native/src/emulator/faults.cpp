// Kernels that fault (a null or stale pointer, a misaligned vector access, a full stack, an integer
// divided by zero) end their launch with an error that names kernel, thread and address, instead of
// ending the process. The handlers are in place during launches only, and pass on what is not ours.
//
// Kernels are compiled with -fsanitize=alignment,bounds in trapping mode: x86 itself forgives most
// misaligned accesses, a GPU none. The trap is an undefined instruction that carries its reason.

#include <signal.h>
#include <ucontext.h>

#include "driver.hpp"
#include "fibers.hpp"

namespace xl {
namespace {

constexpr int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
constexpr unsigned signal_count = sizeof signals / sizeof signals[0];
struct sigaction previous[signal_count];
Worker* const* watched = nullptr;
unsigned watched_count = 0;
thread_local stack_t previous_stack;

Worker* interrupted(const ucontext_t& context) {
  const uintptr_t stack = static_cast<uintptr_t>(context.uc_mcontext.gregs[REG_RSP]);
  for (unsigned i = 0; i < watched_count; i++)
    if (watched[i] != nullptr && owns(*watched[i], stack)) return watched[i];
  return nullptr;
}

/// What the compiler's check found, or null: `ud1 reason(%eax), %eax`.
const char* trap_reason(const unsigned char* at) {
  if (at[0] != 0x67 || at[1] != 0x0f || at[2] != 0xb9 || at[3] != 0x40) return nullptr;
  constexpr unsigned char out_of_bounds = 0x12, type_mismatch = 0x16;
  return at[4] == type_mismatch   ? "a misaligned or null access"
         : at[4] == out_of_bounds ? "an index outside of an array"
                                  : "undefined behaviour";
}

const char* reason(int signal, const siginfo_t& info) {
  if (signal == SIGFPE) return "an integer divided by zero";
  const char* trapped =
      signal == SIGILL ? trap_reason(static_cast<const unsigned char*>(info.si_addr)) : nullptr;
  if (trapped != nullptr) return trapped;
  if (signal == SIGILL) return "an illegal instruction";
  // What x86 makes of an aligned move at an odd address.
  return info.si_code == SI_KERNEL ? "a misaligned access" : nullptr;
}

[[noreturn]] void end_kernel(Worker& self, uintptr_t stack, int signal, const siginfo_t& info) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(info.si_addr);
  const size_t inside = stack - reinterpret_cast<uintptr_t>(&self);
  const uint3 thread = self.seats[inside / seat_bytes].thread;
  const uint3 block = self.block;
  if (const char* why = reason(signal, info)) {
    poison(launch_failed, "kernel %s: %s in thread (%u,%u,%u) of block (%u,%u,%u)", self.kernel,
           why, thread.x, thread.y, thread.z, block.x, block.y, block.z);
  } else if (owns(self, address)) {
    poison(launch_failed, "kernel %s: more than %zu bytes of stack in thread (%u,%u,%u)",
           self.kernel, seat_bytes, thread.x, thread.y, thread.z);
  } else {
    poison(illegal_address,
           "kernel %s: thread (%u,%u,%u) of block (%u,%u,%u) used the address %#lx", self.kernel,
           thread.x, thread.y, thread.z, block.x, block.y, block.z, address);
  }
  abandon_block(self);
}

void handle(int signal, siginfo_t* info, void* context) {
  const ucontext_t& where = *static_cast<const ucontext_t*>(context);
  Worker* self = interrupted(where);
  if (self != nullptr)
    end_kernel(*self, static_cast<uintptr_t>(where.uc_mcontext.gregs[REG_RSP]), signal,
               *info);
  // Not a kernel: the instruction runs again and meets whoever was there before.
  for (unsigned i = 0; i < signal_count; i++)
    if (signals[i] == signal) sigaction(signal, &previous[i], nullptr);
}

}  // namespace

void watch_faults(Worker* const* workers, unsigned count) {
  watched = workers;
  watched_count = count;
  struct sigaction ours = {};
  ours.sa_sigaction = handle;
  // Kernels are left by a stack switch out of the handler, so the signal must not stay blocked.
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&ours.sa_mask);
  for (unsigned i = 0; i < signal_count; i++) sigaction(signals[i], &ours, &previous[i]);
}

void ignore_faults() {
  for (unsigned i = 0; i < signal_count; i++) sigaction(signals[i], &previous[i], nullptr);
}

/// A full stack cannot hold the handler. Null puts back what the thread had before.
void use_signal_stack(void* memory, size_t bytes) {
  if (memory == nullptr) {
    sigaltstack(&previous_stack, nullptr);
    return;
  }
  stack_t ours = {};
  ours.ss_sp = memory;
  ours.ss_size = bytes;
  sigaltstack(&ours, &previous_stack);
}

}  // namespace xl
