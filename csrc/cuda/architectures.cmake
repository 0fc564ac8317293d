# Which machine code the CUDA kernels are compiled to.

# A100, H100, B200 and RTX 50, with PTX for later ones; each also serves cards of its generation.
set(DESC_EXT_ALL_ARCHITECTURES 80-real 90a-real 100-real 120)

# Sets `out` to the architectures, in CMake's notation, of the GPUs in this machine; empty where there is none (that
# nvidia-smi knows) or none that the kernels serve.
function(desc_ext_architectures_here out)
  set(found "")
  find_program(nvidia_smi nvidia-smi NO_CACHE)
  if(nvidia_smi)
    execute_process(COMMAND "${nvidia_smi}" --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE capabilities RESULT_VARIABLE failed ERROR_QUIET TIMEOUT 60)
    if(failed EQUAL 0)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]+" capabilities "${capabilities}")
      foreach(capability IN LISTS capabilities)
        if(capability VERSION_GREATER_EQUAL 12.0)
          list(APPEND found 120)
        elseif(capability VERSION_GREATER_EQUAL 10.0 AND capability VERSION_LESS 11.0)
          list(APPEND found 100-real)
        elseif(capability VERSION_GREATER_EQUAL 9.0 AND capability VERSION_LESS 10.0)
          list(APPEND found 90a-real)
        elseif(capability VERSION_GREATER_EQUAL 8.0 AND capability VERSION_LESS 9.0)
          list(APPEND found 80-real)
        else()
          message(STATUS "A GPU of compute capability ${capability} is not served by the CUDA kernels")
        endif()
      endforeach()
      list(REMOVE_DUPLICATES found)
      list(SORT found COMPARE NATURAL)
    endif()
  endif()
  set(${out} "${found}" PARENT_SCOPE)
endfunction()
