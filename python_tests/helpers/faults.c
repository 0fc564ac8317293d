// Preloaded into a process, lets the n-th change of files below a folder fail, or kills the process there.
// Counted are writes, syncs, and every change of a name: open to create, rename, unlink, rmdir, mkdir, truncate.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char below[4096];
static int number, fault, counted;

// fault_: an errno, or 0 to be killed. number_: which change, from 1; 0: none.
void arm(const char* below_, int number_, int fault_) {
  strncpy(below, below_, sizeof below - 1);
  number = number_;
  fault = fault_;
  counted = 0;
}

int changes(void) { return counted; }

// Whether the change of `path` (relative to the folder `at`, where it is not absolute) is to fail.
static int fails(int at, const char* path) {
  char whole[8192] = "";
  if (number == 0) return 0;
  if (path == NULL || path[0] != '/') {
    char link[64];
    snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
    ssize_t length = readlink(link, whole, 4096);
    if (length < 0) return 0;
    whole[length] = 0;
    if (path != NULL) {
      strcat(whole, "/");
      strncat(whole, path, 4000);
    }
  } else {
    strncat(whole, path, 4096);
  }
  if (strncmp(whole, below, strlen(below)) != 0) return 0;
  if (++counted != number) return 0;
  if (fault == 0) kill(getpid(), SIGKILL);
  errno = fault;
  return 1;
}

// The function of that name that this one stands in front of.
#define REAL(name)               \
  static __typeof__(name)* real; \
  if (!real) real = (__typeof__(name)*)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void* data, size_t size) {
  REAL(write);
  if (number && fails(fd, NULL)) {
    if (size > 1) real(fd, data, size / 2);  // what a full disk still took
    return -1;
  }
  return real(fd, data, size);
}
// Never a real one: it only matters when the power goes, and takes most of the time.
int fsync(int fd) { return fails(fd, NULL) ? -1 : 0; }
int ftruncate64(int fd, off64_t size) {
  REAL(ftruncate64);
  return fails(fd, NULL) ? -1 : real(fd, size);
}
int rename(const char* from, const char* to) {
  REAL(rename);
  return fails(AT_FDCWD, to) ? -1 : real(from, to);
}
int unlink(const char* path) {
  REAL(unlink);
  return fails(AT_FDCWD, path) ? -1 : real(path);
}
int unlinkat(int at, const char* path, int flags) {
  REAL(unlinkat);
  return fails(at, path) ? -1 : real(at, path, flags);
}
int rmdir(const char* path) {
  REAL(rmdir);
  return fails(AT_FDCWD, path) ? -1 : real(path);
}
int mkdir(const char* path, mode_t mode) {
  REAL(mkdir);
  return fails(AT_FDCWD, path) ? -1 : real(path, mode);
}

#define OPEN(name)                                             \
  int name(const char* path, int flags, ...) {                 \
    REAL(name);                                                \
    va_list rest;                                              \
    va_start(rest, flags);                                     \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;  \
    va_end(rest);                                              \
    if ((flags & O_CREAT) && fails(AT_FDCWD, path)) return -1; \
    return real(path, flags, mode);                            \
  }
OPEN(open)
OPEN(open64)
