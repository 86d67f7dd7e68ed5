//! What needs `unsafe`: nothing else in the crate may have it, and nothing here may be more than one call.
#![allow(unsafe_code, reason = "what neither std nor rustix offers")]

/// Gives memory that was freed back to the system.
///
/// glibc gives back only what is freed at the end of an arena. Where many small blocks go at once, it keeps all of them.
/// Holds each arena's lock for a moment, so only for after long work.
pub fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes any number, touches no block that is in use, and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
