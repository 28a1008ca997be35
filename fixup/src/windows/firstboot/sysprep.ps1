
# Devices of the new machine are still being installed in the first minutes.
Start-Sleep -Seconds 180
$sysprep = Join-Path $env:SystemRoot 'System32\Sysprep\sysprep.exe'
Tell 'sysprep begins; it restarts the machine when it is done'
$run = Start-Process -FilePath $sysprep -ArgumentList '/generalize', '/oobe', '/quiet', '/reboot' -PassThru -Wait
Tell "sysprep ended with $($run.ExitCode); where it failed, System32\Sysprep\Panther\setuperr.log says why"
