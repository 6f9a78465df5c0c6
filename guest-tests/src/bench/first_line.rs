//! The `/init` of a guest whose boot is measured: says one line, and waits for its end.

fn main() {
    println!("FIRST LINE OF INIT");
    loop {
        std::thread::park();
    }
}
