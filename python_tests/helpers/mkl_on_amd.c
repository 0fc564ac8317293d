/* Preloaded, it tells MKL that it runs on a Zen processor of AMD, where its products are computed by other routines.
   MKL finds these three of its functions by their names; where torch has another BLAS, nothing calls them. */
int mkl_serv_intel_cpu(void) { return 0; }
int mkl_serv_intel_cpu_true(void) { return 0; }
int mkl_serv_cpuiszen(void) { return 1; }
