//! Writes the inputs that fuzzing starts from into `corpus/TARGET` beside this package.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let save = |target: &str, name: String, bytes: &[u8]| {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes)
    };
    for target in ["vhd_open", "vhdx_open", "vhdx_log", "vmdk_open"] {
        for first in 0..12u8 {
            // As it is; and with one byte of each of the first structures changed.
            let head = [first, 0, 0, 9, 1, 77, 200];
            save(target, format!("plain-{first}"), &head)?;
            for anchor in 0..8 {
                let change = [0, anchor, 3, 0, 1];
                save(target, format!("byte-{first}-{anchor}"), &[&head[..], &change].concat())?;
            }
        }
    }
    for (target, images) in [("parts", 4u8), ("lvm", 2)] {
        for first in 0..images * 2 {
            let head = [first, 0, 0, 9, 1, 77, 200];
            save(target, format!("plain-{first}"), &head)?;
            for anchor in 0..9 {
                for at in [16, 80, 0xbe, 0xca] {
                    let change = [0, anchor, at, 1, 1];
                    let input = [&head[..], &change].concat();
                    save(target, format!("byte-{first}-{anchor}-{at}"), &input)?;
                }
            }
        }
    }
    let text = b"vg { id = \"g\" seqno = 3 extent_size = 8 physical_volumes { p { id = \"abcdef-ghij-klmn-opqr-stuv-wxyz-012345\" pe_start = 256 pe_count = 99 } } logical_volumes { a { status = [\"VISIBLE\"] segment1 { start_extent = 0 extent_count = 4 type = \"striped\" stripe_count = 2 stripe_size = 8 stripes = [\"p\", 0, \"p\", 9] } } s { segment1 { type = \"snapshot\" origin = \"a\" cow_store = \"b\" } } } }";
    save("lvm", "text".into(), &[&[3, 0, 0, 9, 1, 77, 200], &text[..]].concat())?;
    for target in ["fs_ntfs", "fs_ext", "fs_fat", "fs_xfs", "fs_btrfs"] {
        for first in 0..8u8 {
            save(target, format!("plain-{first}"), &[first])?;
            for sector in 0..16 {
                let change = [first, sector * 5, 0, sector * 13, 0, sector, 3];
                save(target, format!("byte-{first}-{sector}"), &change)?;
            }
        }
    }
    let descriptors = [
        "createType=\"monolithicFlat\"\nRW 39 FLAT \"a\" 0\n",
        "createType=\"twoGbMaxExtentSparse\"\nRW 256 SPARSE \"s\"\n",
        "createType=\"custom\"\nRW 1 FLAT \"b\" 0\nRW 9 ZERO\nRDONLY 10 FLAT \"a\" 12\nNOACCESS 20 FLAT \"e\" 0\n",
        "createType=\"vmfs\"\r\nRW 39 VMFS \"a\"\r\nddb.geometry.cylinders = \"1\"\r\nddb.logicalSectorSize = \"4096\"\r\n",
        "parentFileNameHint=\"p\"\nchangeTrackPath=\"c\"\nencoding=\"windows-1252\"\n#DDB\nddb.uuid = \"60 00\"\n",
    ];
    for (index, text) in descriptors.iter().enumerate() {
        let bytes = [&[1, 0, 0, 9, 1, 77, 200], text.as_bytes()].concat();
        save("vmdk_descriptor", format!("text-{index}"), &bytes)?;
    }
    let names = [
        ".\\p.vhd",
        "..\\out\\s.vhd",
        "C:\\in\\SUB\\Q.vhd",
        "file:///in/p.vhd",
        "l.vhd",
        "fifo",
        "z",
        "/dev/zero",
        "\\\\host\\share\\p.vhd",
        "flat\np.vmdk",
        "o/flat\no/s.vmdk",
        "../out/flat\n",
        "d/../flat\nsub\\deep\\q.VMDK",
        "flat\n[ds] vm/p.vmdk",
        "loop\nloop",
    ];
    for (index, name) in names.iter().enumerate() {
        for first in [0u8, 1, 2, 3, 4, 0x41] {
            save("chain", format!("name-{index}-{first}"), &[&[first], name.as_bytes()].concat())?;
        }
    }
    for first in 0..44u8 {
        let head = [first, 0, 0, 9, 1, 77, 200];
        for anchor in 0..8 {
            for (op, shift) in [(0, 3), (5, 0), (4, 1)] {
                let input = [&head[..], &[op, anchor, shift, 0, 1]].concat();
                save("repair", format!("byte-{first}-{anchor}-{op}"), &input)?;
            }
        }
    }
    for format in 0..3u8 {
        for first in 0..16u8 {
            let steps = (0..10u8).flat_map(|n| {
                [
                    n.wrapping_mul(first),
                    n.wrapping_mul(37).wrapping_add(first),
                    n * 5,
                    n.wrapping_mul(29),
                ]
            });
            let steps: Vec<u8> = steps.collect();
            save(
                "chain_ops",
                format!("steps-{format}-{first}"),
                &[&[format], &steps[..]].concat(),
            )?;
            let mut damaged = vec![format, 0, 0, 0, 0, 1, 40, 2, 99, 0, 0, 0, 0, 1, 90, 1, 200];
            damaged.extend([15, first, first / 2, 0, 0, first, 4, 0, 77]);
            save("chain_ops", format!("damage-{format}-{first}"), &damaged)?;
        }
    }
    for first in 0..12u8 {
        save("hive_open", format!("plain-{first}"), &[first, 0, 1, 9, 77])?;
        save("hive_log", format!("plain-{first}"), &[first])?;
        for anchor in 0..40 {
            // A byte and a number, at a field of each structure.
            let byte = [0, anchor, anchor % 24, 0, 1];
            let number = [5 | 2 << 3, anchor, 4 * (anchor % 16), 0];
            let open = [&[first, 0, 1, 9, 77][..], &byte, &number].concat();
            save("hive_open", format!("fields-{first}-{anchor}"), &open)?;
            let log = [&[first][..], &byte, &number].concat();
            save("hive_log", format!("fields-{first}-{anchor}"), &log)?;
        }
        let steps: Vec<u8> = (0..11u8).flat_map(|n| [n, n * first, n * 20 + first, 3]).collect();
        save("hive_edit", format!("steps-{first}"), &[&[first], &steps[..]].concat())?;
    }
    for image in 0..12u8 {
        let steps: Vec<u8> = (0..40u8).flat_map(|n| [n, n, n % 8, n, n % 3, n]).collect();
        save("write_reopen", format!("image-{image}"), &[&[image], &steps[..]].concat())?;
    }
    let driver = "[Version]\nSignature=\"$WINDOWS NT$\"\nDriverVer=07/29/2024,1.2.3.4\n\
        [SourceDisksFiles]\na.sys=1\n[Manufacturer]\n%V%=M,NTamd64.10.0,NTx86\n\
        [M.NTamd64.10.0]\n%D%=i,PCI\\VEN_1AF4\n[M.NTx86]\n%D%=i,PCI\\VEN_1AF4\n\
        [i.NT]\nCopyFiles=@a.sys\n[i.NT.Services]\nAddService=a,2,s\n[s]\nServiceType=1\n\
        ErrorControl=1\nServiceBinary=%12%\\a.sys\nAddReg=r\n\
        [r]\nHKR,\"P\",B,0x10001,10\nHKR,,M,0x10000,a,\"b;\"\n[Strings]\nV=\"v\"\nD=d ; c\n";
    save("inf", "driver".into(), driver.as_bytes())?;
    for table in [0u8, 1] {
        let mut device = vec![0; 88];
        device[16] = 6;
        device[24] = 0x48;
        device[32] = 9;
        device[52] = table;
        device[56] = 7;
        save("bcd", format!("device-{table}"), &device)?;
    }
    let text = br#"{"schema":"vdisk.report/1","command":"strip","image":"disk.img","places":2,
"bytes":8192,"undo":"disk.img.strip-1.undo","actions":[],"warnings":[],"refusals":[]}"#;
    save("report", "text".into(), &[&[0, 0, 0, 9, 1, 77, 200], &text[..]].concat())?;
    for first in [2u8, 3, 4, 5] {
        let head = [first, 0, 0, 9, 1, 77, 200];
        save("report", format!("plain-{first}"), &head)?;
        for anchor in 0..12 {
            let change = [0, anchor, 3, 0, 1];
            save("report", format!("byte-{first}-{anchor}"), &[&head[..], &change].concat())?;
        }
    }
    Ok(())
}
