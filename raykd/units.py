"""Bytes and seconds in words, for messages, logs, tables and the report. Imports no torch."""


def disk_size(num_bytes: float) -> str:
    """Return '0 B', '12 KiB' or '1.4 GiB', for files."""
    size, unit = float(num_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.1f} {unit}" if size < 10 and unit not in ("B", "KiB") else f"{size:.0f} {unit}"


def capacity(num_bytes: float) -> str:
    """Return '120 MB' or '1.54 GB', in the decimal units in which memory and disks are sold, with three digits."""
    size, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.3g} {unit}" if size < 999.5 else f"{size:,.0f} {unit}"


def duration(seconds: float | None) -> str:
    """Return a short text: '41.2 s', '12 min 05 s' or '3 h 07 min'; '-' for None."""
    if seconds is None:
        return "-"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60:02d} min"


def age(seconds: float) -> str:
    """Return '5 min', '3 h' or '12 d'."""
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    return f"{seconds // 3600:.0f} h" if seconds < 2 * 86_400 else f"{seconds // 86_400:.0f} d"


def clock(seconds: float) -> str:
    """Return the time since a start as hours, minutes and seconds: '0:12:05'."""
    minutes, whole_seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole_seconds:02d}"
