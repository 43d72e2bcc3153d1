//! numpy reads what this crate writes, and this crate reads what numpy writes. Skipped where there is no numpy.

use cameo_npz::{Array, DType};
use std::path::Path;
use std::process::Command;

fn python(dir: &Path, script: &str) {
    let output = Command::new("python3")
        .args(["-c", script])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn both_ways() {
    let found = Command::new("python3").args(["-c", "import numpy"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no python3 with numpy");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();

    python(
        dir,
        "import numpy as np
x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
for name, save in (('stored', np.savez), ('packed', np.savez_compressed)):
    save(name + '.npz', x=x, f=np.asfortranarray(x), t=x[:, ::2].T, big=x.astype('>f8'), n=np.int64(7),
         b=np.array([True, False]), h=np.array([1.5], np.float16), e=np.zeros((0, 2), np.uint8))",
    );
    let arrays = cameo_npz::read(&dir.join("stored.npz")).unwrap();
    assert_eq!(arrays, cameo_npz::read(&dir.join("packed.npz")).unwrap());
    let get = |name: &str| arrays.iter().find(|array| array.name == name).unwrap();
    let x: Vec<u8> = (0..24).flat_map(|i| (i as f32).to_le_bytes()).collect();
    assert_eq!((&get("x").data, &*get("x").shape), (&x, &[2, 3, 4][..]));
    assert_eq!((&get("f").data, &*get("f").shape), (&x, &[2, 3, 4][..]));
    let t: Vec<u8> = (0..4)
        .flat_map(|k| {
            [0, 2]
                .into_iter()
                .flat_map(move |j| [0, 1].map(|i| (i * 12 + j * 4 + k) as f32))
        })
        .flat_map(f32::to_le_bytes)
        .collect();
    assert_eq!((&get("t").data, &*get("t").shape), (&t, &[4, 2, 2][..]));
    let big: Vec<u8> = (0..24).flat_map(|i| f64::from(i).to_le_bytes()).collect();
    assert_eq!((get("big").dtype, &get("big").data), (DType::F64, &big));
    assert_eq!(
        (get("n").dtype, &get("n").shape[..], &get("n").data[..]),
        (DType::I64, &[][..], &7i64.to_le_bytes()[..])
    );
    assert_eq!((get("b").dtype, &get("b").data[..]), (DType::Bool, &[1, 0][..]));
    assert_eq!(
        (get("h").dtype, &get("h").data[..]),
        (DType::F16, &0x3E00u16.to_le_bytes()[..])
    );
    assert_eq!((&get("e").shape[..], get("e").data.len()), (&[0, 2][..], 0));

    let x = Array {
        name: "x".into(),
        dtype: DType::F32,
        shape: vec![2, 3, 4],
        data: x,
    };
    let n = Array {
        name: "a/ö".into(),
        dtype: DType::I64,
        shape: vec![],
        data: 7i64.to_le_bytes().to_vec(),
    };
    let e = Array {
        name: "e".into(),
        dtype: DType::Bool,
        shape: vec![0],
        data: vec![],
    };
    cameo_npz::write(&dir.join("ours.npz"), &[x.as_ref(), n.as_ref(), e.as_ref()]).unwrap();
    python(
        dir,
        "import numpy as np, zipfile
a = np.load('ours.npz')
assert zipfile.ZipFile('ours.npz').testzip() is None
assert a.files == ['x', 'a/ö', 'e'], a.files
assert a['x'].dtype == np.float32 and (a['x'] == np.arange(24).reshape(2, 3, 4)).all()
assert a['a/ö'] == 7 and a['a/ö'].shape == () and a['a/ö'].dtype == np.int64
assert a['e'].shape == (0,) and a['e'].dtype == bool",
    );
}
