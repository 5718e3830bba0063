/*
 * lost-mapping LOCKED BESIDE: locks a file, maps it and another one, and writes 'a' to both. Then, for each line of standard
 * input: "write" writes 'A' to the mappings, "sync" says what msync, fsync and close of each file return. Answers in one line.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BYTES = 4096, FILES = 2 };

static int outcome(int result) { return result == 0 ? 0 : errno; }

int main(int argc, char **argv) {
  int fds[FILES];
  char *maps[FILES];
  char line[16];
  if (argc != 1 + FILES) return 2;
  for (int i = 0; i < FILES; i++) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if ((fds[i] = open(argv[1 + i], O_RDWR)) < 0) return 1;
    if (i == 0 && fcntl(fds[i], F_SETLK, &lock) != 0) return 1;
    maps[i] = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
    if (maps[i] == MAP_FAILED) return 1;
    memset(maps[i], 'a', BYTES);
    if (msync(maps[i], BYTES, MS_SYNC) != 0 || fsync(fds[i]) != 0) return 1;
  }
  puts("ready");
  fflush(stdout);
  while (fgets(line, sizeof line, stdin) != NULL) {
    for (int i = 0; i < FILES; i++) {
      if (line[0] == 'w') {
        memset(maps[i], 'A', BYTES);
        continue;
      }
      int synced = outcome(msync(maps[i], BYTES, MS_SYNC));
      int fsynced = outcome(fsync(fds[i]));
      munmap(maps[i], BYTES);
      printf("%d %d %d ", synced, fsynced, outcome(close(fds[i])));
    }
    puts("done");
    fflush(stdout);
  }
  return 0;
}
