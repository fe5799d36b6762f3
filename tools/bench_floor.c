/* The least that n processes can take for a step: a semaphore a process, one for "done", and a memset of its row.

   ./floor NUM_ENVS ROW_BYTES
   reads a number of steps a line, answers with the time of each in ns, one line; ends with its standard input.
   Rows lie in four slots in turn, as in the arena; what was written is checked after each step, untimed. */

#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 4 };

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void *shared(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) { perror("mmap"); exit(1); }
    return memory;
}

int main(int count, char **arguments) {
    if (count != 3) { fprintf(stderr, "expected NUM_ENVS ROW_BYTES\n"); return 2; }
    int n = atoi(arguments[1]), steps;
    size_t row_bytes = strtoul(arguments[2], NULL, 10);
    sem_t *go = shared(sizeof(sem_t) * (n + 1)), *done = go + n;
    unsigned char *rows = shared(row_bytes * n * SLOTS);
    for (int i = 0; i <= n; i++) sem_init(go + i, 1, 0);
    for (int i = 0; i < n; i++)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (unsigned step = 1;; step++) {
                while (sem_wait(go + i)) {}
                memset(rows + row_bytes * (n * (step % SLOTS) + i), (int)(step + i) & 255, row_bytes);
                sem_post(done);
            }
        }
    for (unsigned step = 0; scanf("%d", &steps) == 1; printf("\n"), fflush(stdout))
        for (int k = 0; k < steps; k++) {
            long long began_ns = now_ns();
            step++;
            for (int i = 0; i < n; i++) sem_post(go + i);
            for (int i = 0; i < n; i++) while (sem_wait(done)) {}
            printf("%lld ", now_ns() - began_ns);
            for (int i = 0; i < n; i++) {
                unsigned char *row = rows + row_bytes * (n * (step % SLOTS) + i), value = (step + i) & 255;
                if (row[0] != value || row[row_bytes / 2] != value || row[row_bytes - 1] != value) {
                    fprintf(stderr, "wrong row %d at step %u\n", i, step);
                    return 1;
                }
            }
        }
    return 0;
}
