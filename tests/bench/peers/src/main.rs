//! Times rten as `peers.py` times engines that have a Python package: the same arguments, the same line of JSON.
//!
//!     rten-peer MODEL.onnx INPUTS.npz --threads N --runs N --warmup N

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cameo_npz::{Array, DType};
use rten::{ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::Tensor;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("an argument is missing");
    let (path, inputs) = (next()?, next()?);
    let [mut threads, mut runs, mut warmup] = [2, 20, 5];
    while let Ok(flag) = next() {
        let value: usize = next()?.parse()?;
        match &*flag {
            "--threads" => threads = value,
            "--runs" => runs = value,
            "--warmup" => warmup = value,
            _ => return Err(format!("{flag}: not a flag").into()),
        }
    }
    let arrays = cameo_npz::read(Path::new(&inputs)).map_err(|e| e.to_string())?;

    let begin = Instant::now();
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(&path)?;
    let inputs = arrays
        .iter()
        .map(|a| Ok((model.node_id(&a.name)?, value(a)?)))
        .collect::<Result<Vec<(NodeId, Value)>, Box<dyn Error>>>()?;
    let pool = Arc::new(ThreadPool::with_num_threads(threads));
    let options = RunOptions::default().with_thread_pool(Some(pool));
    let (mut times, mut first) = (vec![], 0.0);
    for i in 0..warmup + runs {
        let views: Vec<(NodeId, ValueOrView)> = inputs.iter().map(|(id, v)| (*id, v.into())).collect();
        let start = Instant::now();
        model.run(views, model.output_ids(), Some(options.clone()))?;
        if i == 0 {
            first = begin.elapsed().as_secs_f64() * 1e3;
        }
        if i >= warmup {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    let (Some(min), Some(max)) = (times.first(), times.last()) else {
        return Err("no runs".into());
    };
    let median = f64::midpoint(times[(times.len() - 1) / 2], times[times.len() / 2]);
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).ok_or("no peak")?;
    let peak = peak.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024;
    println!(
        "{{\"median_ms\": {median:.6}, \"min_ms\": {min:.6}, \"max_ms\": {max:.6}, \"first_ms\": {first:.6}, \
         \"peak_rss_bytes\": {peak}}}"
    );
    Ok(())
}

/// rten has no wide integers and no booleans: its documentation asks for 32 bits instead.
fn value(a: &Array) -> Result<Value, Box<dyn Error>> {
    let shape: Vec<usize> = a.shape.iter().map(|&n| n as usize).collect();
    let int = |bytes: &[u8]| match *bytes {
        [a] => i32::from(a),
        [a, b, c, d, ..] => i32::from_le_bytes([a, b, c, d]),
        _ => 0,
    };
    Ok(match a.dtype {
        DType::F32 => {
            let data = a.data.as_chunks::<4>().0;
            Tensor::from_data(
                &shape,
                data.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>(),
            )
            .into()
        }
        DType::I64 | DType::I32 | DType::Bool => {
            let data = a.data.chunks_exact(a.dtype.size());
            Tensor::from_data(&shape, data.map(int).collect::<Vec<i32>>()).into()
        }
        other => return Err(format!("input {}: rten does not take {}", a.name, other.name()).into()),
    })
}
