/*
 * Random operations on one file, through descriptors and through a mapping, beside a copy of it in memory: all that is
 * read must be what the copy has. The two ways see each other's changes at once, as POSIX says of a shared mapping.
 *
 * usage: mapped-file PATH SEED OPERATIONS
 * Prints the last operations and exits 1 at the first difference.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_BYTES = 1 << 20, MAX_STEP = 96 * 1024, REMEMBERED = 25 };

static uint64_t state;
static unsigned char model[MAX_BYTES + MAX_STEP], buffer[MAX_STEP];
static size_t size;
static char remembered[REMEMBERED][120];
static unsigned long step;

static uint32_t below(uint32_t limit) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return limit == 0 ? 0 : (uint32_t)((state >> 16) % limit);
}

static void fail(const char *what) {
  for (int i = REMEMBERED - 1; i >= 0; i--)
    if (step > (unsigned long)i) printf("%s\n", remembered[(step - i) % REMEMBERED]);
  printf("step %lu: %s (%s)\n", step, what, errno ? strerror(errno) : "no error");
  exit(1);
}

static void note(const char *what, size_t offset, size_t length) {
  step++;
  errno = 0;
  snprintf(remembered[step % REMEMBERED], sizeof remembered[0], "%lu: %s %zu+%zu of %zu", step, what, offset, length, size);
}

static void same(const unsigned char *is, size_t offset, size_t length, const char *what) {
  for (size_t i = 0; i < length; i++) {
    if (is[i] == model[offset + i]) continue;
    char text[160];
    snprintf(text, sizeof text, "%s: at %zu there is %d, and should be %d", what, offset + i, is[i], model[offset + i]);
    fail(text);
  }
}

/* Bytes that differ from one operation to the next. */
static void fill(unsigned char *bytes, size_t length) {
  for (size_t i = 0; i < length; i++) bytes[i] = (unsigned char)(1 + (step * 31 + i * 7 + (i >> 9)) % 255);
}

static void grow(size_t end) {
  if (end <= size) return;
  size = end;
}

static void zero(size_t from, size_t to) {
  if (to > from) memset(model + from, 0, to - from);
}

static unsigned char *map_of(int file, size_t offset, size_t length, size_t *lead, size_t *whole) {
  *lead = offset % 4096;
  *whole = length + *lead;
  unsigned char *at = mmap(NULL, *whole, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t)(offset - *lead));
  if (at == MAP_FAILED) fail("mmap");
  return at;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  state = strtoull(argv[2], NULL, 10) * 2654435761u + 88172645463325252ull;
  unsigned long operations = strtoul(argv[3], NULL, 10);
  int file = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (file < 0) fail("open");
  while (step < operations) {
    size_t offset = below(4) == 0 ? below(MAX_BYTES / 4096) * 4096 : below(MAX_BYTES);
    size_t length = 1 + below(below(3) == 0 ? MAX_STEP : 5000), lead, whole;
    if (offset + length > MAX_BYTES) length = MAX_BYTES - offset;
    switch (below(12)) {
    case 0: case 1:
      note("write", offset, length);
      fill(buffer, length);
      if (pwrite(file, buffer, length, (off_t)offset) != (ssize_t)length) fail("pwrite");
      memcpy(model + offset, buffer, length);
      grow(offset + length);
      break;
    case 2: case 3: {
      note("read", offset, length);
      size_t wanted = offset >= size ? 0 : offset + length > size ? size - offset : length;
      ssize_t got = pread(file, buffer, length, (off_t)offset);
      if (got != (ssize_t)wanted) fail("pread: not as many bytes as there are");
      same(buffer, offset, wanted, "read");
      break;
    }
    case 4: case 5: case 6: {
      if (size == 0) continue;
      offset %= size;
      if (offset + length > size) length = size - offset;
      int writes = below(2) == 0;
      note(writes ? "write to the mapping" : "read of the mapping", offset, length);
      unsigned char *at = map_of(file, offset, length, &lead, &whole);
      same(at + lead, offset, length, "mapping");
      if (writes) {
        fill(at + lead, length);
        memcpy(model + offset, at + lead, length);
        if (below(4) == 0 && msync(at, whole, MS_SYNC) != 0) fail("msync");
      }
      if (munmap(at, whole) != 0) fail("munmap");
      break;
    }
    case 7: {
      size_t to = below(3) == 0 ? offset : below((uint32_t)(size + 1));
      note("truncate", to, 0);
      if (ftruncate(file, (off_t)to) != 0) fail("ftruncate");
      zero(to < size ? to : size, to < size ? size : to);
      size = to;
      break;
    }
    case 8: {
      int punch = below(2) == 0, keep = punch || below(2) == 0;
      note(punch ? "punch" : "zero", offset, length);
      int mode = punch ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE | (keep ? FALLOC_FL_KEEP_SIZE : 0);
      if (fallocate(file, mode, (off_t)offset, (off_t)length) != 0) fail("fallocate");
      size_t end = offset + length;
      if (!keep) grow(end);
      if (offset < size) zero(offset, end < size ? end : size);
      break;
    }
    case 9:
      note("fsync, drop", 0, 0);
      if (fsync(file) != 0) fail("fsync");
      if (below(2) == 0 && posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) != 0) fail("posix_fadvise");
      break;
    case 10:
      if (below(4) != 0) continue;
      note("close and open", 0, 0);
      if (close(file) != 0) fail("close");
      file = open(argv[1], O_RDWR | (below(4) == 0 ? O_DIRECT : 0));
      if (file < 0) fail("open");
      /* O_DIRECT only while the file is not read by odd offsets: the flag goes again at once. */
      if (fcntl(file, F_SETFL, 0) != 0) fail("fcntl");
      break;
    default: {
      struct stat stats;
      note("stat", 0, 0);
      if (fstat(file, &stats) != 0) fail("fstat");
      if ((size_t)stats.st_size != size) fail("the size is another");
    }
    }
  }
  if (close(file) != 0) fail("close");
  file = open(argv[1], O_RDONLY);
  for (size_t at = 0; at < size;) {
    ssize_t got = pread(file, buffer, sizeof buffer, (off_t)at);
    if (got <= 0) fail("read at the end");
    same(buffer, at, (size_t)got, "at the end");
    at += (size_t)got;
  }
  printf("%lu operations, %zu bytes\n", step, size);
  return 0;
}
