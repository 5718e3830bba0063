/*
 * at-once open|lock FILE COUNT: for each line of standard input so many threads open the file, or lock it through descriptors
 * that they have, at the same moment, and read what its first block says, which is a number. Prints these in one line.
 * Between an open, or a lock, and its read nothing else happens, as it would by messages.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_THREADS = 64, BLOCK = 4096, FAILED = -1 };
static pthread_barrier_t together;
static const char *path;
static int locks;

struct reader {
  pthread_t thread;
  int fd;
  int found;
};

static int number_at(int fd) {
  char block[BLOCK + 1] = {0};
  return pread(fd, block, BLOCK, 0) < 1 ? FAILED : atoi(block);
}

static void *open_and_read(void *argument) {
  struct reader *reader = argument;
  pthread_barrier_wait(&together);
  int fd = open(path, O_RDONLY);
  reader->found = fd < 0 ? FAILED : number_at(fd);
  if (fd >= 0) close(fd);
  return NULL;
}

static void *lock_and_read(void *argument) {
  struct reader *reader = argument;
  struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
  pthread_barrier_wait(&together);
  reader->found = fcntl(reader->fd, F_OFD_SETLKW, &lock) != 0 ? FAILED : number_at(reader->fd);
  lock.l_type = F_UNLCK;
  if (fcntl(reader->fd, F_OFD_SETLK, &lock) != 0) reader->found = FAILED;
  return NULL;
}

int main(int argc, char **argv) {
  static struct reader readers[MAX_THREADS];
  int count = argc == 4 ? atoi(argv[3]) : 0;
  if (count < 1 || count > MAX_THREADS) return 2;
  locks = strcmp(argv[1], "lock") == 0;
  path = argv[2];
  if (pthread_barrier_init(&together, NULL, count) != 0) return 1;
  for (int i = 0; locks && i < count; i++)
    if ((readers[i].fd = open(path, O_RDONLY)) < 0) return 1;
  for (int c = getchar(); c != EOF; c = getchar()) {
    if (c != '\n') continue;
    for (int i = 0; i < count; i++)
      if (pthread_create(&readers[i].thread, NULL, locks ? lock_and_read : open_and_read, &readers[i]) != 0) return 1;
    for (int i = 0; i < count; i++) {
      pthread_join(readers[i].thread, NULL);
      printf("%d ", readers[i].found);
    }
    printf("\n");
    fflush(stdout);
  }
  return 0;
}
