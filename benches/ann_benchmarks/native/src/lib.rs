//! nearfield's build and search as C functions, for `module.py`: arrays are borrowed, never copied.

use std::{
    cell::RefCell,
    ffi::{CStr, CString, c_char},
    ptr, slice,
};

use ndarray::ArrayView2;
use nearfield::{Device, Index, SearchParams, Searcher};

/// An index and its searcher.
pub struct Handle {
    index: Index,
    searcher: Searcher,
}

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

/// Keeps what went wrong for [`nearfield_error`].
fn fail(error: &dyn std::fmt::Display) {
    let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
    ERROR.with(|held| *held.borrow_mut() = text);
}

/// The last error of this thread, valid until its next call.
#[unsafe(no_mangle)]
pub extern "C" fn nearfield_error() -> *const c_char {
    ERROR.with(|held| held.borrow().as_ptr())
}

/// Builds an index; null where that fails.
///
/// # Safety
/// 1. `rows` holds `n·d` floats. 2. `metric` and `spec` are texts that end in a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nearfield_build(
    rows: *const f32,
    n: usize,
    d: usize,
    metric: *const c_char,
    spec: *const c_char,
) -> *mut Handle {
    // SAFETY: by 1 and 2.
    let (rows, metric, spec) =
        unsafe { (slice::from_raw_parts(rows, n * d), CStr::from_ptr(metric), CStr::from_ptr(spec)) };
    let build = || -> Result<Handle, Box<dyn std::error::Error>> {
        let base = ArrayView2::from_shape((n, d), rows)?;
        let index = Index::builder(spec.to_str()?.parse()?).metric(metric.to_str()?.parse()?).build(base)?;
        let searcher = index.searcher(Device::cpu())?;
        Ok(Handle { index, searcher })
    };
    match build() {
        Ok(handle) => Box::into_raw(Box::new(handle)),
        Err(e) => {
            fail(&e);
            ptr::null_mut()
        }
    }
}

/// Bytes of the index.
///
/// # Safety
/// `handle` comes from [`nearfield_build`] and has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nearfield_bytes(handle: *const Handle) -> usize {
    // SAFETY: as promised.
    unsafe { (*handle).index.n_bytes() }
}

/// Writes the ids of the `k` nearest of each query, −1 where there are fewer; 0 if all went well. `threads`: 0 takes all
/// cores, 1 stays on the calling thread.
///
/// # Safety
/// 1. `handle` comes from [`nearfield_build`] and has not been freed. 2. `queries` holds `n·d` floats, d as in the index.
/// 3. `ids` has room for `n·k`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nearfield_search(
    handle: *const Handle,
    queries: *const f32,
    n: usize,
    k: usize,
    n_probe: usize,
    n_rerank: usize,
    threads: usize,
    ids: *mut i64,
) -> i32 {
    // SAFETY: by 1, 2 and 3.
    let (handle, queries, ids) = unsafe {
        let handle = &*handle;
        let queries = slice::from_raw_parts(queries, n * handle.index.dim());
        (handle, queries, slice::from_raw_parts_mut(ids, n * k))
    };
    let mut search = || -> Result<(), Box<dyn std::error::Error>> {
        let queries = ArrayView2::from_shape((n, handle.index.dim()), queries)?;
        let params = SearchParams::new(k).n_probe(n_probe).n_rerank(n_rerank).threads(threads);
        let hits = handle.searcher.search(queries, params)?;
        for (id, found) in ids.iter_mut().zip(&hits.ids) {
            *id = found.cast_signed();
        }
        Ok(())
    };
    match search() {
        Ok(()) => 0,
        Err(e) => {
            fail(&e);
            1
        }
    }
}

/// Frees an index.
///
/// # Safety
/// `handle` comes from [`nearfield_build`], and this is its end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nearfield_free(handle: *mut Handle) {
    if !handle.is_null() {
        // SAFETY: as promised.
        drop(unsafe { Box::from_raw(handle) });
    }
}
