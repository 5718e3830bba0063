// Takes and releases a record lock, each time on the next byte. Nobody else locks the file, so this is the price of a
// lock and not of waiting. Node has no fcntl(2). usage: record-locks FILE COUNT
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

static int set(int file, short type, long at) {
  struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
  return fcntl(file, F_SETLK, &lock);
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  int file = open(arguments[1], O_RDWR | O_CREAT, 0644);
  long locks = atol(arguments[2]);
  int failed = file < 0;
  for (long i = 0; i < locks && !failed; i++) failed = set(file, F_WRLCK, i) != 0 || set(file, F_UNLCK, i) != 0;
  if (failed) perror(arguments[1]);
  return failed;
}
