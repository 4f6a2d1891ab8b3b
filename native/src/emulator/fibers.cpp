// The scheduler of one block: fibers.hpp has the model.
//
// Who runs when a thread waits: a ready lane of the same warp, else a thread that has not started,
// else any ready warp. The order is fixed: a race that shows once shows every time.

#include "fibers.hpp"

#include <string.h>
#include <sys/mman.h>

#include "driver.hpp"

// Saves the callee-saved registers on the current stack and its address in *save, then goes on
// where `next` was saved. Floating-point control words are the same for every fiber.
extern "C" void xl_switch(void** save, void* next);
__asm__(
    ".text\n"
    ".hidden xl_switch\n"
    ".globl xl_switch\n"
    ".type xl_switch,@function\n"
    "xl_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  retq\n"
    ".size xl_switch, . - xl_switch\n");

namespace xl {
namespace {

constexpr unsigned saved_registers = 6;
constexpr unsigned nobody = max_threads;

unsigned char* seat_start(Worker& self, unsigned seat) {
  return reinterpret_cast<unsigned char*>(&self) + seat * seat_bytes;
}

void place(Worker& self, unsigned seat, unsigned linear) {
  const uint3 size = self.block_size;
  Seat& taken = self.seats[seat];
  taken.linear = linear;
  taken.thread.x = linear % size.x;
  taken.thread.y = linear / size.x % size.y;
  taken.thread.z = linear / size.x / size.y;
}

void wake(Worker& self, unsigned warp, unsigned lanes) {
  self.warps[warp].ready |= lanes;
  if (self.warps[warp].ready != 0) self.ready_warps |= 1u << warp;
}

/// `going_on`: the lane that released the others and simply continues.
void release_warp(Worker& self, unsigned warp, unsigned going_on) {
  Warp& group = self.warps[warp];
  group.present[group.parity] = group.arrived;
  group.parity ^= 1;
  group.votes[group.parity] = 0;  // its last readers have arrived here, so they are done
  wake(self, warp, group.arrived & ~going_on);
  group.arrived = 0;
}

void release_block(Worker& self, unsigned going_on) {
  self.arrived = 0;
  for (unsigned warp = 0; warp * warp_lanes < self.threads; warp++) {
    unsigned lanes = self.warps[warp].live;
    if (going_on / warp_lanes == warp) lanes &= ~(1u << going_on % warp_lanes);
    wake(self, warp, lanes);
  }
}

/// A thread has returned: it may be the last one its peers were waiting for.
void leave(Worker& self, unsigned linear) {
  const unsigned warp = linear / warp_lanes;
  Warp& group = self.warps[warp];
  group.live &= ~(1u << linear % warp_lanes);
  self.live--;
  if (group.arrived != 0 && group.arrived == group.live) release_warp(self, warp, 0);
  if (self.arrived != 0 && self.arrived == self.live) release_block(self, nobody);
}

void run_seat();

/// A stack that begins with `run_seat`. Tops are spread over cache sets; at equal distances all
/// seats would compete for the same few lines.
void* fresh_stack(Worker& self) {
  const unsigned seat =
      self.free_count != 0 ? self.free_seats[--self.free_count] : self.next_seat++;
  place(self, seat, self.started++);
  void** stack = reinterpret_cast<void**>(seat_start(self, seat + 1) - (seat % 61 + 1) * 128);
  *--stack = nullptr;  // where a call would have put its return address: alignment
  *--stack = reinterpret_cast<void*>(&run_seat);
  for (unsigned i = 0; i < saved_registers; i++) *--stack = nullptr;
  return stack;
}

void* ready_stack(Worker& self, unsigned warp) {
  Warp& group = self.warps[warp];
  const unsigned lane = static_cast<unsigned>(__builtin_ctz(group.ready));
  group.ready &= group.ready - 1;
  if (group.ready == 0) self.ready_warps &= ~(1u << warp);
  return self.stacks[warp * warp_lanes + lane];
}

[[noreturn]] void deadlock(Worker& self) {
  const Site* warp_site = nullptr;
  for (unsigned warp = 0; warp * warp_lanes < self.threads; warp++)
    if (self.warps[warp].arrived != 0) warp_site = &self.warps[warp].site;
  const Site& first = warp_site != nullptr ? *warp_site : self.site;
  poison(launch_failed, "kernel %s: threads diverge at a barrier: some wait at %s (%s:%d)%s%s",
         self.kernel, first.operation, file_name(first.file), first.line,
         self.arrived != 0 && warp_site != nullptr ? ", others at " : ", the others do not come",
         self.arrived != 0 && warp_site != nullptr ? self.site.operation : "");
  abandon_block(self);
}

void* next_stack(Worker& self, unsigned warp) {
  if (self.warps[warp].ready != 0) return ready_stack(self, warp);
  if (self.started < self.threads) return fresh_stack(self);
  if (self.ready_warps != 0)
    return ready_stack(self, static_cast<unsigned>(__builtin_ctz(self.ready_warps)));
  deadlock(self);
}

/// Runs the threads of one seat, one after the other; never returns.
void run_seat() {
  Worker& self = worker();
  const Seat& taken = seat();
  const unsigned number = static_cast<unsigned>(&taken - self.seats);
  for (;;) {
    self.function(self.arguments);
    leave(self, taken.linear);
    if (self.warps[taken.linear / warp_lanes].ready != 0) break;
    if (self.started == self.threads) break;
    place(self, number, self.started++);
  }
  if (self.live == 0) xl_switch(&self.discarded, self.main_stack);
  void* next = next_stack(self, taken.linear / warp_lanes);
  self.free_seats[self.free_count++] = static_cast<unsigned short>(number);
  xl_switch(&self.discarded, next);
  __builtin_unreachable();
}

void wait(Worker& self, unsigned linear) {
  xl_switch(&self.stacks[linear], next_stack(self, linear / warp_lanes));
}

bool same(const Site& a, const Site& b) {
  return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0) &&
         (a.operation == b.operation || strcmp(a.operation, b.operation) == 0);
}

[[noreturn]] void diverged(Worker& self, unsigned linear, const Site& here, const Site& there) {
  poison(launch_failed,
         "kernel %s: threads diverge at a barrier: thread %u at %s (%s:%d), others at %s (%s:%d)",
         self.kernel, linear, here.operation, file_name(here.file), here.line, there.operation,
         file_name(there.file), there.line);
  abandon_block(self);
}

}  // namespace

Meeting meet(unsigned mask, uint64_t value, bool vote, Site site) {
  Worker& self = worker();
  const unsigned linear = seat().linear, warp = linear / warp_lanes, lane = linear % warp_lanes;
  Warp& group = self.warps[warp];
  if (mask != ~0u) {
    poison(launch_failed, "kernel %s: %s (%s:%d) with the mask %08x; only full warps are supported",
           self.kernel, site.operation, file_name(site.file), site.line, mask);
    abandon_block(self);
  }
  if (group.arrived == 0) {
    group.site = site;
  } else if (!same(site, group.site)) {
    diverged(self, linear, site, group.site);
  }
  const unsigned parity = group.parity;
  group.values[parity][lane] = value;
  group.votes[parity] |= static_cast<unsigned>(vote) << lane;
  group.arrived |= 1u << lane;
  if (group.arrived == group.live) {
    release_warp(self, warp, 1u << lane);
  } else {
    wait(self, linear);
  }
  return Meeting{group.values[parity], group.present[parity], group.votes[parity], lane};
}

void meet_block(Site site) {
  Worker& self = worker();
  const unsigned linear = seat().linear;
  if (self.arrived == 0) {
    self.site = site;
  } else if (!same(site, self.site)) {
    diverged(self, linear, site, self.site);
  }
  if (++self.arrived == self.live) {
    release_block(self, linear);
  } else {
    wait(self, linear);
  }
}

Worker* create_worker() {
  const int protection = PROT_READ | PROT_WRITE;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* mapped = mmap(nullptr, 2 * region_bytes, PROT_NONE, flags, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  const uintptr_t from = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t start = (from + region_bytes - 1) & ~(region_bytes - 1);
  if (start != from) munmap(mapped, start - from);
  munmap(reinterpret_cast<void*>(start + region_bytes), from + region_bytes - start);
  Worker* made = reinterpret_cast<Worker*>(start);
  if (mprotect(made, seat_count * seat_bytes, protection) != 0) return nullptr;
  // A stack that overflows must fault, not write into its neighbour.
  for (unsigned seat = first_seat; seat < seat_count; seat++)
    if (mprotect(seat_start(*made, seat), 4096, PROT_NONE) != 0) return nullptr;
  return made;
}

bool run_block(Worker& self) {
  self.threads = self.block_size.x * self.block_size.y * self.block_size.z;
  self.live = self.threads;
  self.started = self.arrived = self.ready_warps = self.free_count = 0;
  self.next_seat = first_seat;
  self.failed = false;
  for (unsigned warp = 0; warp * warp_lanes < self.threads; warp++) {
    Warp& group = self.warps[warp];
    const unsigned lanes = self.threads - warp * warp_lanes;
    group.live = lanes >= warp_lanes ? ~0u : (1u << lanes) - 1;
    group.ready = group.arrived = group.parity = group.votes[0] = group.votes[1] = 0;
  }
  xl_switch(&self.main_stack, fresh_stack(self));
  return !self.failed;
}

void abandon_block(Worker& self) {
  self.failed = true;
  xl_switch(&self.discarded, self.main_stack);
  __builtin_unreachable();
}

bool owns(const Worker& self, uintptr_t address) {
  return (address & ~(region_bytes - 1)) == reinterpret_cast<uintptr_t>(&self);
}

}  // namespace xl
