// What the driver remembers besides memory: the lock, errors, settings, the list of kernels, and
// who has initialised what.

#include "state.hpp"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace xl {

State state;

namespace {

pthread_mutex_t call_lock = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t error_lock = PTHREAD_MUTEX_INITIALIZER;
char error_text[512];
Result poisoned = success, reported = success;
Kernel* kernels = nullptr;
thread_local int context_of_thread = 0;  // generation of the context; 0 for none

}  // namespace

Result report(Result code, const char* format, ...) {
  va_list values;
  va_start(values, format);
  pthread_mutex_lock(&error_lock);
  if (poisoned == success) {
    vsnprintf(error_text, sizeof error_text, format, values);
    reported = code;
  }
  pthread_mutex_unlock(&error_lock);
  va_end(values);
  return code;
}

Result poison(Result code, const char* format, ...) {
  va_list values;
  va_start(values, format);
  pthread_mutex_lock(&error_lock);
  if (poisoned == success) {
    vsnprintf(error_text, sizeof error_text, format, values);
    poisoned = reported = code;
  }
  const Result first = poisoned;
  pthread_mutex_unlock(&error_lock);
  va_end(values);
  return first;
}

Result sticky() { return __atomic_load_n(&poisoned, __ATOMIC_ACQUIRE); }

const char* error() { return error_text; }

int error_code() { return reported; }

void forget_errors() {
  pthread_mutex_lock(&error_lock);
  poisoned = reported = success;
  error_text[0] = 0;
  pthread_mutex_unlock(&error_lock);
}

const char* file_name(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

unsigned long long setting(const char* name, unsigned long long otherwise) {
  const char* text = getenv(name);
  return text == nullptr || *text == 0 ? otherwise : strtoull(text, nullptr, 10);
}

Call::Call(Needs needs) : result(success) {
  pthread_mutex_lock(&call_lock);
  if (needs == Needs::nothing) return;
  if (!state.initialized) {
    result = report(not_initialized, "cuInit has not been called");
  } else if (sticky() != success) {
    result = sticky();
  } else if (needs == Needs::context && !has_context()) {
    result = report(invalid_context, "no context is current on this thread");
  }
}

Call::~Call() { pthread_mutex_unlock(&call_lock); }

void use_context(bool use) { context_of_thread = use ? state.generation : 0; }

bool has_context() {
  return state.retained > 0 && context_of_thread == state.generation;
}

void add_kernel(Kernel* kernel) {
  kernel->next = kernels;
  kernels = kernel;
}

Kernel* find_kernel(const char* name) {
  Kernel* kernel = kernels;
  while (kernel != nullptr && strcmp(kernel->name, name) != 0) kernel = kernel->next;
  return kernel;
}

bool is_kernel(const void* handle) {
  const Kernel* kernel = kernels;
  while (kernel != nullptr && kernel != handle) kernel = kernel->next;
  return kernel != nullptr;
}

}  // namespace xl
