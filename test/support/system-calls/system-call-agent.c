/*
 * Does system calls on command, as any user: what lets a test ask a mounted directory everything that a program could.
 * It must not be the process that serves the mount. Each call runs in a thread of its own, so that one that waits (a lock,
 * a FIFO) holds up no other; credentials and umask are those of the thread alone. system-call-agent.ts is the other end.
 *
 * Numbers are little-endian, as the machine has them. Standard input:
 *   u32 length of the rest | u32 id | u8 kind
 *   kind 0, a call:      u32 uid | u32 gid | u32 umask | u16 count | u32 group... | u8 length, name | u8 count, argument...
 *   kind 1, interrupts:  nothing more; the call `id` gets a signal
 * An argument: u8 0, i64 number | u8 1, u32 length, bytes to read | u8 2, u32 length to fill | u8 3, u32 length, bytes to change
 * Standard output, in the order in which calls end:
 *   u32 length of the rest | u32 id | i64 result or -errno | (u32 length, bytes) for each argument of kinds 2 and 3;
 *   one of kind 2 is cut at a result above 0
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_ARGUMENTS = 6, MAX_MESSAGE = 128 << 20 };
enum { NUMBER = 0, INPUT = 1, OUTPUT = 2, BOTH = 3 };

/* By name, since numbers differ between machines. Only what every Linux has. */
#define CALLS(X)                                                                                                              \
  X(bind) X(close) X(connect) X(copy_file_range) X(dup) X(faccessat2) X(fallocate) X(fchmod) X(fchmodat) X(fchown)             \
  X(fchownat) X(fcntl) X(fdatasync) X(fgetxattr) X(flistxattr) X(flock) X(fremovexattr) X(fsetxattr) X(fstatfs) X(fsync)      \
  X(ftruncate) X(getdents64) X(getpid) X(getxattr) X(ioctl) X(linkat) X(listen) X(listxattr) X(lseek) X(mkdirat) X(mknodat)    \
  X(mmap) X(msync) X(munmap) X(openat) X(pread64) X(pwrite64) X(read) X(readlinkat) X(removexattr) X(renameat2) X(sendfile)    \
  X(setxattr) X(socket) X(splice) X(statfs) X(statx) X(symlinkat) X(sync_file_range) X(syncfs) X(truncate) X(unlinkat)         \
  X(utimensat) X(write)
static const struct {
  const char *name;
  long number;
} calls[] = {
#define ROW(call) {#call, SYS_##call},
  CALLS(ROW)
#undef ROW
};

struct request {
  struct request *next;
  pthread_t thread;
  uint8_t *bytes;
  size_t length, at;
  uint32_t id;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct request *running;

static void die(const char *what) {
  fprintf(stderr, "system-call-agent: %s\n", what);
  _exit(70);
}

static void take(struct request *r, void *into, size_t length) {
  if (length > r->length - r->at) die("a request is cut short");
  memcpy(into, r->bytes + r->at, length);
  r->at += length;
}

#define TAKE(type, r)                                                                                                         \
  ({                                                                                                                          \
    type value;                                                                                                               \
    take(r, &value, sizeof value);                                                                                            \
    value;                                                                                                                    \
  })

static void *allocate(size_t length) {
  void *memory = calloc(1, length ? length : 1);
  if (memory == NULL) die("out of memory");
  return memory;
}

/* Raw calls: those of the C library would change all threads. */
static void become(struct request *r) {
  long uid = TAKE(uint32_t, r), gid = TAKE(uint32_t, r), mask = TAKE(uint32_t, r), count = TAKE(uint16_t, r);
  uint32_t groups[65536];
  take(r, groups, count * sizeof *groups);
  if (unshare(CLONE_FS) != 0) die("unshare failed");
  umask(mask);
  if (uid == 0 && gid == 0 && count == 0) return;
  if (syscall(SYS_setgroups, count, groups) || syscall(SYS_setresgid, -1, gid, -1) || syscall(SYS_setresuid, -1, uid, -1))
    die("cannot become another user");
}

static long number_of(struct request *r) {
  char name[256] = {0};
  take(r, name, TAKE(uint8_t, r));
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    if (strcmp(calls[i].name, name) == 0) return calls[i].number;
  die(name);
  return -1;
}

static void write_all(const uint8_t *bytes, size_t length) {
  while (length > 0) {
    ssize_t done = write(STDOUT_FILENO, bytes, length);
    if (done < 0 && errno != EINTR) _exit(0); /* nobody listens any more */
    if (done > 0) bytes += done, length -= done;
  }
}

static void *run(void *argument) {
  struct request *r = argument;
  become(r);
  long number = number_of(r), values[MAX_ARGUMENTS] = {0};
  struct {
    uint8_t kind;
    uint32_t length;
  } arguments[MAX_ARGUMENTS] = {{0}};
  int count = TAKE(uint8_t, r);
  if (count > MAX_ARGUMENTS) die("too many arguments");
  for (int i = 0; i < count; i++) {
    arguments[i].kind = TAKE(uint8_t, r);
    if (arguments[i].kind == NUMBER) {
      values[i] = TAKE(int64_t, r);
      continue;
    }
    arguments[i].length = TAKE(uint32_t, r);
    if (arguments[i].length > MAX_MESSAGE) die("too long");
    void *memory = allocate(arguments[i].length);
    values[i] = (long)memory;
    if (arguments[i].kind != OUTPUT) take(r, memory, arguments[i].length);
  }

  int64_t result = syscall(number, values[0], values[1], values[2], values[3], values[4], values[5]);
  if (result == -1) result = -errno;

  uint32_t length = sizeof r->id + sizeof result;
  for (int i = 0; i < count; i++) {
    if (arguments[i].kind < OUTPUT) continue;
    if (arguments[i].kind == OUTPUT && result < 0) arguments[i].length = 0;
    if (arguments[i].kind == OUTPUT && result > 0 && result < arguments[i].length) arguments[i].length = result;
    length += sizeof length + arguments[i].length;
  }
  uint8_t *answer = allocate(sizeof length + length), *at = answer;
#define PUT(from, size) (memcpy(at, from, size), at += (size))
  PUT(&length, sizeof length);
  PUT(&r->id, sizeof r->id);
  PUT(&result, sizeof result);
  for (int i = 0; i < count; i++) {
    if (arguments[i].kind >= OUTPUT) {
      PUT(&arguments[i].length, sizeof arguments[i].length);
      PUT((void *)values[i], arguments[i].length);
    }
    if (arguments[i].kind != NUMBER) free((void *)values[i]);
  }

  pthread_mutex_lock(&lock);
  for (struct request **each = &running; *each != NULL; each = &(*each)->next) {
    if (*each == r) {
      *each = r->next;
      break;
    }
  }
  write_all(answer, at - answer);
  pthread_mutex_unlock(&lock);
  free(answer);
  free(r->bytes);
  free(r);
  return NULL;
}

static void start(struct request *r) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 1 << 20);
  pthread_mutex_lock(&lock);
  r->next = running;
  running = r;
  if (pthread_create(&r->thread, &attributes, run, r) != 0) die("no more threads");
  pthread_mutex_unlock(&lock);
  pthread_attr_destroy(&attributes);
}

static void interrupt(uint32_t id) {
  pthread_mutex_lock(&lock);
  for (struct request *each = running; each != NULL; each = each->next)
    if (each->id == id) pthread_kill(each->thread, SIGUSR1);
  pthread_mutex_unlock(&lock);
}

static void ignore(int signal) { (void)signal; }

int main(void) {
  struct sigaction action = {.sa_handler = ignore}; /* without SA_RESTART: the call ends with EINTR */
  sigaction(SIGUSR1, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  uint32_t length;
  while (fread(&length, sizeof length, 1, stdin) == 1) {
    if (length > MAX_MESSAGE) die("a request is too long");
    struct request *r = allocate(sizeof *r);
    r->bytes = allocate(length);
    r->length = length;
    if (fread(r->bytes, 1, length, stdin) != length) die("a request is cut short");
    r->id = TAKE(uint32_t, r);
    if (TAKE(uint8_t, r) == 0) {
      start(r);
    } else {
      interrupt(r->id);
      free(r->bytes);
      free(r);
    }
  }
  _exit(0);
}
