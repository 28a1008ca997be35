# Put here by vdisk, which moved this machine's disk. It runs once, at the first start, and says in
# firstboot.log beside it what it did.
$ErrorActionPreference = 'Stop'
$self = $MyInvocation.MyCommand.Path
$folder = Split-Path -Parent $self
$log = Join-Path $folder 'firstboot.log'

function Tell([string]$text) {
    $now = (Get-Date).ToUniversalTime().ToString('yyyy-MM-dd HH:mm:ss')
    Add-Content -Path $log -Value "$now $text"
}

trap {
    Tell "stopped: $_"
    exit 1
}

# Before anything else: the service that started it goes, and it cannot be started by this name again.
& (Join-Path $env:SystemRoot 'System32\sc.exe') delete vdisk-firstboot | Out-Null
$key = 'HKLM:\SYSTEM\CurrentControlSet\Services\vdisk-firstboot'
if (Test-Path $key) {
    Set-ItemProperty -Path $key -Name Start -Value 4
}
Move-Item -Force -Path $self -Destination (Join-Path $folder 'firstboot-done.ps1')
Tell 'begun'
