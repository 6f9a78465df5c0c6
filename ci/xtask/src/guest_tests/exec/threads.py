# Threads that count together.
import threading

lock, total = threading.Lock(), 0


def work():
    global total
    for _ in range(5000):
        with lock:
            total += 1


threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("python counted", total)
