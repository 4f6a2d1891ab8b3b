// Runs a grid: the calling thread and one helper take blocks until none is left.
//
// Static shared memory of all kernels together is large, so it is spoiled only before the first
// block of each worker and the last one of the grid: every block runs the same code.

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "driver.hpp"
#include "fibers.hpp"
#include "shared.hpp"

namespace xl {
namespace {

constexpr unsigned worker_count = 2;
constexpr size_t signal_stack_bytes = size_t(64) << 10;

struct Grid {
  const Launch* launch;
  unsigned long long blocks, next;
  bool failed;
};

Worker* workers[worker_count];
Grid grid;
pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t begin = PTHREAD_COND_INITIALIZER;
pthread_cond_t done = PTHREAD_COND_INITIALIZER;
bool helper_busy = false;
int launches = 0;
alignas(16) unsigned char signal_stacks[worker_count][signal_stack_bytes];
thread_local Shared shared;

void set_up(Worker& self, const Launch& launch) {
  self.grid_size = launch.grid;
  self.block_size = launch.block;
  self.kernel = launch.kernel->name;
  self.function = launch.kernel->function;
  self.arguments = launch.arguments;
  self.shared = shared.dynamic();
}

bool run_one(Worker& self, unsigned long long number, bool with_static) {
  const Launch& launch = *grid.launch;
  const unsigned long long rows = number / launch.grid.x;
  self.block.x = static_cast<unsigned>(number % launch.grid.x);
  self.block.y = static_cast<unsigned>(rows % launch.grid.y);
  self.block.z = static_cast<unsigned>(rows / launch.grid.y);
  shared.spoil(launch.shared_bytes, with_static);
  if (!run_block(self)) return false;
  if (shared.intact(launch.shared_bytes)) return true;
  poison(illegal_address, "kernel %s wrote past the end of its %u bytes of shared memory",
         launch.kernel->name, launch.shared_bytes);
  return false;
}

void take_blocks(Worker& self) {
  set_up(self, *grid.launch);
  bool first = true;
  while (!__atomic_load_n(&grid.failed, __ATOMIC_RELAXED)) {
    const unsigned long long number = __atomic_fetch_add(&grid.next, 1, __ATOMIC_RELAXED);
    if (number >= grid.blocks) return;
    const bool edge = first || number + 1 == grid.blocks;
    first = false;
    if (!run_one(self, number, edge)) __atomic_store_n(&grid.failed, true, __ATOMIC_RELAXED);
  }
}

void* help(void*) {
  use_signal_stack(signal_stacks[1], signal_stack_bytes);
  pthread_mutex_lock(&lock);
  for (;;) {
    while (!helper_busy) pthread_cond_wait(&begin, &lock);
    pthread_mutex_unlock(&lock);
    take_blocks(*workers[1]);
    pthread_mutex_lock(&lock);
    helper_busy = false;
    pthread_cond_signal(&done);
  }
}

/// The helper is never stopped, so its code must not be unloaded under it.
void stay_loaded() {
  Dl_info self;
  if (dladdr(reinterpret_cast<const void*>(&stay_loaded), &self) != 0 && self.dli_fname != nullptr)
    dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

bool start_workers() {
  if (workers[0] == nullptr) workers[0] = create_worker();
  if (workers[0] == nullptr) return false;
  if (workers[1] != nullptr) return true;
  Worker* second = create_worker();
  if (second == nullptr) return false;
  workers[1] = second;
  stay_loaded();
  pthread_t thread;
  if (pthread_create(&thread, nullptr, help, nullptr) != 0) {
    workers[1] = nullptr;
    return false;
  }
  pthread_detach(thread);
  return true;
}

void run_grid() {
  const bool with_helper = grid.blocks > 1;
  pthread_mutex_lock(&lock);
  helper_busy = with_helper;
  if (with_helper) pthread_cond_signal(&begin);
  pthread_mutex_unlock(&lock);
  use_signal_stack(signal_stacks[0], signal_stack_bytes);
  take_blocks(*workers[0]);
  use_signal_stack(nullptr, 0);
  pthread_mutex_lock(&lock);
  while (helper_busy) pthread_cond_wait(&done, &lock);
  pthread_mutex_unlock(&lock);
}

}  // namespace

Result run_launch(const Launch& launch) {
  const char* faulty = getenv("XL_EMULATOR_FAULT");
  if (faulty != nullptr && strcmp(faulty, launch.kernel->name) == 0)
    return poison(illegal_address, "kernel %s is the one of XL_EMULATOR_FAULT", faulty);
  if (!start_workers()) return report(out_of_memory, "no address space or thread for workers");
  launches++;
  grid.launch = &launch;
  grid.blocks = static_cast<unsigned long long>(launch.grid.x) * launch.grid.y * launch.grid.z;
  grid.next = 0;
  grid.failed = false;
  watch_faults(workers, worker_count);
  run_grid();
  ignore_faults();
  return grid.failed ? sticky() : check_red_zones(launch.kernel->name);
}

int launch_count() { return launches; }

}  // namespace xl
